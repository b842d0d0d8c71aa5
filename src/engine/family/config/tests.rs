//! Published configs are read as diffusers reads them; absurd and foreign ones are refused.

use super::*;

/// `stable-diffusion-v1-4`, whose file leaves most to the defaults.
const SD1_UNET: &str = r#"{
  "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2", "act_fn": "silu",
  "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
  "center_input_sample": false, "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
    "DownBlock2D"],
  "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4,
  "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
  "out_channels": 4, "sample_size": 64,
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
    "CrossAttnUpBlock2D"]
}"#;

/// Stable Diffusion 1 with some fields changed.
fn sd1_with(changes: &str) -> String {
    with(SD1_UNET, changes)
}

fn with(base: &str, changes: &str) -> String {
    let mut base: serde_json::Map<_, _> = serde_json::from_str(base).unwrap();
    let changes: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(changes).unwrap();
    base.extend(changes);
    serde_json::Value::Object(base).to_string()
}

#[test]
fn stable_diffusion_1_is_read() {
    let config = UnetConfig::parse(SD1_UNET, "unet/config.json").unwrap();
    assert_eq!(config.block_out_channels, [320, 640, 1280, 1280]);
    assert_eq!(config.heads, [8; 4]);
    assert_eq!(config.transformer_layers, [1; 4]);
    assert_eq!(config.cross_attention_dim, 768);
    assert_eq!(config.down_blocks[3], BlockKind::Plain);
    assert_eq!(config.up_blocks[0], BlockKind::Plain);
    assert!(!config.use_linear_projection && config.flip_sin_to_cos);
}

#[test]
fn stable_diffusion_2_is_read() {
    let json = sd1_with(
        r#"{"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024,
            "dual_cross_attention": false, "num_class_embeds": null, "only_cross_attention": false,
            "use_linear_projection": true, "upcast_attention": true, "sample_size": 96,
            "resnet_out_scale_factor": 1.0, "mid_block_only_cross_attention": null}"#,
    );
    let config = UnetConfig::parse(&json, "unet/config.json").unwrap();
    assert_eq!(config.heads, [5, 10, 20, 20]);
    assert_eq!((config.cross_attention_dim, config.sample_size), (1024, Some([96; 2])));
    assert!(config.use_linear_projection);
}

#[test]
fn the_builtin_model_is_read() {
    macro_rules! asset {
        ($part:literal) => {
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/assets/emoji-canvas/model/",
                $part,
                "/config.json"
            ))
        };
    }
    let unet = UnetConfig::parse(asset!("unet"), "unet/config.json").unwrap();
    assert_eq!((unet.heads, unet.sample_size), (vec![2; 3], Some([16; 2])));
    let vae = VaeConfig::parse(asset!("vae"), "vae/config.json").unwrap();
    assert_eq!((vae.block_out_channels, vae.norm_num_groups), (vec![32, 32, 64], 8));
    assert!((vae.scaling_factor - 0.6671).abs() < 1e-12);
    let text = ClipTextConfig::parse(asset!("text_encoder"), "text_encoder/config.json").unwrap();
    assert_eq!((text.vocab_size, text.eos_token_id), (875, 874));
    let clip = ClipConfig::parse(asset!("clip"), "clip/config.json").unwrap();
    assert_eq!(clip.text, text);
    assert_eq!((clip.vision.image_size, clip.vision.patch_size), (64, 16));
    // A whole CLIP model's file serves as a text encoder's.
    assert_eq!(ClipTextConfig::parse(asset!("clip"), "clip/config.json").unwrap(), text);
}

#[test]
fn absent_fields_have_the_defaults_of_diffusers() {
    let unet = UnetConfig::parse(r#"{"sample_size": 64}"#, "f").unwrap();
    assert_eq!((unet.cross_attention_dim, unet.layers_per_block), (1280, 2));
    let vae = VaeConfig::parse("{}", "f").unwrap();
    assert!((vae.scaling_factor - 0.18215).abs() < 1e-12 && vae.use_quant_conv);
    let clip = ClipConfig::parse("{}", "f").unwrap();
    assert_eq!((clip.text.vocab_size, clip.vision.tower.hidden_size), (49_408, 768));
}

#[test]
fn old_clip_files_are_read_by_their_dictionaries() {
    let clip = ClipConfig::parse(
        r#"{"model_type": "clip", "text_config": {"hidden_size": 512},
            "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12}}"#,
        "f",
    )
    .unwrap();
    assert_eq!((clip.text.tower.hidden_size, clip.text.tower.num_attention_heads), (768, 12));
    // As a text encoder, transformers reads the same file by `text_config`.
    let text = ClipTextConfig::parse(
        r#"{"model_type": "clip", "text_config": {"hidden_size": 512},
            "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12}}"#,
        "f",
    )
    .unwrap();
    assert_eq!((text.tower.hidden_size, text.tower.num_attention_heads), (512, 8));
}

#[test]
fn whatever_we_do_not_build_is_refused() {
    for (change, expected) in [
        (r#"{"addition_embed_type": "text_time"}"#, "SDXL is not supported yet"),
        (r#"{"addition_embed_type": "image"}"#, "addition_embed_type is \"image\""),
        (r#"{"class_embed_type": "timestep"}"#, "class_embed_type is \"timestep\""),
        (r#"{"num_class_embeds": 1000}"#, "num_class_embeds is 1000"),
        (r#"{"act_fn": "gelu"}"#, "act_fn is \"gelu\""),
        (r#"{"downsample_padding": 0}"#, "downsample_padding is 0"),
        (r#"{"mid_block_scale_factor": 1.4}"#, "mid_block_scale_factor is 1.4"),
        (r#"{"mid_block_type": "UNetMidBlock2D"}"#, "mid_block_type is"),
        (r#"{"only_cross_attention": [true, true, true, false]}"#, "only_cross_attention is"),
        (r#"{"num_attention_heads": 8}"#, "num_attention_heads is 8"),
        (r#"{"resnet_time_scale_shift": "scale_shift"}"#, "resnet_time_scale_shift is"),
        (r#"{"time_embedding_type": "fourier"}"#, "time_embedding_type is"),
        (r#"{"encoder_hid_dim": 4096}"#, "encoder_hid_dim is 4096"),
        (r#"{"conv_in_kernel": 5}"#, "conv_in_kernel is 5"),
        (r#"{"layers_per_block": [2, 2, 2, 3]}"#, "layers_per_block is [2, 2, 2, 3]"),
        (r#"{"_class_name": "FluxTransformer2DModel"}"#, "only \"UNet2DConditionModel\""),
        (
            r#"{"up_block_types": ["UpBlock2D", "UpBlock2D", "UpBlock2D", "KUpBlock2D"]}"#,
            "one of \"CrossAttnUpBlock2D\", \"UpBlock2D\"",
        ),
    ] {
        refused(UnetConfig::parse(&sd1_with(change), "unet/config.json"), expected);
    }
    for (json, expected) in [
        (r#"{"shift_factor": 0.1}"#, "shift_factor is 0.1"),
        (r#"{"latents_mean": [0.1, 0.2]}"#, "latents_mean is"),
        (r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#, "DownEncoderBlock2D"),
        (r#"{"block_out_channels": [128, 256]}"#, "down_block_types lists 1 levels"),
        (r#"{"_class_name": "AutoencoderTiny"}"#, "AutoencoderKL"),
        (r#"{"in_channels": 4}"#, "in_channels is 4, outside 3 to 3"),
    ] {
        refused(VaeConfig::parse(json, "unet/config.json"), expected);
    }
    for (json, expected) in [
        (r#"{"hidden_act": "relu"}"#, "one of \"quick_gelu\", \"gelu\""),
        (r#"{"model_type": "t5"}"#, "only \"clip_text_model\""),
        (r#"{"eos_token_id": 99999999999}"#, "which is no token"),
        (r#"{"num_attention_heads": 7}"#, "hidden_size is 512, not a multiple"),
        (r#"{"layer_norm_eps": 0}"#, "layer_norm_eps is 0"),
    ] {
        refused(ClipTextConfig::parse(json, "unet/config.json"), expected);
    }
    // A text encoder alone never looks for the end.
    assert!(ClipTextConfig::parse(r#"{"vocab_size": 1000}"#, "f").is_ok());
    refused(
        ClipConfig::parse(r#"{"text_config": {"eos_token_id": 49408}}"#, "unet/config.json"),
        "vocab_size is only 49408",
    );
    refused(
        ClipConfig::parse(r#"{"vision_config": {"patch_size": 30}}"#, "unet/config.json"),
        "image_size is 224, not a multiple of patch_size, which is 30",
    );
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_allocated() {
    for (change, expected) in [
        (r#"{"in_channels": 0}"#, "in_channels is 0, outside 1 to 65536"),
        (r#"{"in_channels": -4}"#, "in_channels is -4; it must be a whole number"),
        (r#"{"in_channels": 4.5}"#, "in_channels is 4.5"),
        (r#"{"in_channels": 1e99}"#, "in_channels is 1e"),
        (
            r#"{"block_out_channels": [320, 640, 1280, 1048576]}"#,
            "block_out_channels[3] is 1048576",
        ),
        (r#"{"block_out_channels": []}"#, "the length of block_out_channels is 0"),
        (r#"{"block_out_channels": [320, 640, 1280]}"#, "down_block_types lists 4 levels"),
        (r#"{"block_out_channels": [330, 640, 1280, 1280]}"#, "norm_num_groups, which is 32"),
        (r#"{"attention_head_dim": 7}"#, "not a multiple of attention_head_dim[0]"),
        (r#"{"attention_head_dim": 0}"#, "is 0, outside 1 to"),
        (r#"{"attention_head_dim": [8, 8]}"#, "attention_head_dim lists 2 values"),
        (r#"{"norm_num_groups": null}"#, "norm_num_groups is null"),
        (r#"{"layers_per_block": 65}"#, "layers_per_block is 65, outside 1 to 64"),
        (r#"{"transformer_layers_per_block": 1000}"#, "is 1000, outside 1 to 64"),
        (
            r#"{"sample_size": 0, "_diffusers_version": "0.9.0"}"#,
            "sample_size is 0, outside 1 to 4096",
        ),
        (r#"{"sample_size": 4097}"#, "sample_size is 4097, outside 1 to 4096"),
        (r#"{"sample_size": [64, 0]}"#, "sample_size is 0, outside 1 to 4096"),
        (r#"{"sample_size": [64]}"#, "sample_size is [64]; it must be a whole number, or a list"),
        (r#"{"sample_size": [64, 64, 64]}"#, "a whole number, or a list of height and width"),
        (r#"{"sample_size": ["64", 64]}"#, "a whole number, or a list of height and width"),
        (r#"{"norm_eps": 0.0}"#, "norm_eps is 0"),
        (r#"{"freq_shift": 160}"#, "freq_shift is 160, outside 0 to 159.5"),
        (
            r#"{"block_out_channels": [65536, 65536, 65536, 65536], "layers_per_block": 64}"#,
            "the limit is 20 billion",
        ),
    ] {
        refused(UnetConfig::parse(&sd1_with(change), "unet/config.json"), expected);
    }
    let clip = r#"{"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 64}"#;
    refused(ClipTextConfig::parse(clip, "unet/config.json"), "the limit is 20 billion");
    for json in ["", "[]", "{", &"[".repeat(10_000)] {
        refused(UnetConfig::parse(json, "unet/config.json"), "is not");
    }
    // As Python writes it; named where the field is one that is read.
    let json = r#"{"sample_size": 64, "in_channels": NaN}"#;
    refused(UnetConfig::parse(json, "unet/config.json"), "in_channels is \"NaN\"");
}

fn refused<T: std::fmt::Debug>(result: Result<T, crate::engine::EngineError>, expected: &str) {
    let text = result.unwrap_err().to_string();
    assert!(
        text.starts_with("unet/config.json: ") && text.contains(expected),
        "{expected}: {text}"
    );
}

#[test]
fn the_parameter_estimate_is_close() {
    let estimate = UnetConfig::parse(SD1_UNET, "f").unwrap().parameters();
    let counted = 859_520_964.0;
    assert!((estimate / counted - 1.0).abs() < 0.1, "{estimate}");
}

proptest::proptest! {
    #[test]
    fn no_config_panics(field in 0_usize..12, value in "[1-9][0-9]{0,21}|0|null|true|\"a\"|\\[0\\]") {
        let name = ["in_channels", "sample_size", "block_out_channels", "attention_head_dim",
            "layers_per_block", "norm_num_groups", "freq_shift", "cross_attention_dim",
            "down_block_types", "norm_eps", "transformer_layers_per_block", "out_channels"][field];
        let _ = UnetConfig::parse(&sd1_with(&format!("{{\"{name}\": {value}}}")), "f");
        let json = format!("{{\"{name}\": {value}, \"hidden_size\": {value}}}");
        let _ = VaeConfig::parse(&json, "f");
        let _ = ClipConfig::parse(&format!("{{\"vision_config\": {json}}}"), "f");
    }
}

#[test]
fn early_conversions_have_the_size_that_diffusers_mends() {
    for (version, size) in [("0.8.1", 64), ("0.0.4", 64), ("0.9.0.dev0", 16), ("1.2.0", 16)] {
        let json = format!(r#"{{"sample_size": 16, "_diffusers_version": "{version}"}}"#);
        assert_eq!(
            UnetConfig::parse(&json, "f").unwrap().sample_size,
            Some([size; 2]),
            "{version}"
        );
    }
    let later = r#"{"sample_size": 96, "_diffusers_version": "0.6.0"}"#;
    assert_eq!(UnetConfig::parse(later, "f").unwrap().sample_size, Some([96; 2]));
    // Diffusers mends a number alone.
    let pair = r#"{"sample_size": [16, 24], "_diffusers_version": "0.6.0"}"#;
    assert_eq!(UnetConfig::parse(pair, "f").unwrap().sample_size, Some([16, 24]));
}

#[test]
fn sizes_may_be_odd_unequal_or_absent() {
    for (given, expected) in
        [("18", [18, 18]), ("65", [65, 65]), ("[64, 96]", [64, 96]), ("[1, 4096]", [1, 4_096])]
    {
        let json = sd1_with(&format!("{{\"sample_size\": {given}}}")).replace("0.2.2", "0.9.0");
        let config = UnetConfig::parse(&json, "f").unwrap();
        assert_eq!(config.own_size("f").unwrap(), expected, "{given}");
    }
    for json in ["{}", r#"{"sample_size": null, "_diffusers_version": "0.6.0"}"#] {
        let config = UnetConfig::parse(json, "f").unwrap();
        let missing = config.own_size("unet/config.json").unwrap_err().to_string();
        for part in ["unet/config.json: sample_size is absent", "--width and --height"] {
            assert!(missing.contains(part), "{missing}");
        }
    }
    // Drawing does not ask what the autoencoder was trained at.
    for given in ["null", "[512, 768]", "0"] {
        VaeConfig::parse(&format!("{{\"sample_size\": {given}}}"), "f").unwrap();
    }
}
