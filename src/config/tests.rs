//! Settings from all four sources, their violations, and the generated reference.

use std::{ffi::OsString, fs, path::PathBuf};

use super::{
    ConfigError, ConfigViolation, FlagValue, Loaded, LogFormat, Origin, Settings, Sources, load,
    open_files, print, reference_page, sample_file,
    section::{Key, Kind},
};

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn flag(flag: &'static str, key: &'static str, value: &str) -> FlagValue {
    FlagValue { flag, key, value: value.to_owned() }
}

/// Loads a file of this text.
fn from_file(text: &str) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keystep.toml");
    fs::write(&path, text).unwrap();
    load(&Sources { file: Some(path), ..Sources::default() })
}

fn violations(result: Result<Loaded, ConfigError>) -> Vec<ConfigViolation> {
    match result {
        Err(ConfigError::Invalid { violations }) => violations,
        other => panic!("{other:?}"),
    }
}

fn keys(found: &[ConfigViolation]) -> Vec<&str> {
    found.iter().map(|violation| violation.key.as_str()).collect()
}

#[test]
fn the_later_source_wins_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keystep.toml");
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nmax_connections = 5\n[jobs]\nlease = \"90s\"\n\
                extend_every = \"20s\"\n[log]\nformat = \"text\"\n";
    fs::write(&path, file).unwrap();
    let loaded = load(&Sources {
        file: Some(path.clone()),
        environment: variables(&[
            ("KEYSTEP__SERVER__LISTEN", "127.0.0.1:2"),
            ("KEYSTEP__JOBS__LEASE", "2m"),
            ("KEYSTEP__STORAGE__OUTPUTS", "s3://a/x, file:///srv/y"),
            ("KEYSTEP_HOME", "of another program"),
            ("PATH", "/bin"),
        ]),
        flags: vec![flag("--listen", "server.listen", "127.0.0.1:3")],
    })
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.server.listen.port(), 3);
    assert_eq!(settings.jobs.lease.as_secs(), 120);
    assert_eq!(settings.jobs.extend_every.as_secs(), 20);
    assert_eq!(settings.server.max_connections, 5);
    assert_eq!(settings.log.format, LogFormat::Text);
    assert_eq!(settings.storage.outputs, ["s3://a/x", "file:///srv/y"]);
    let origin = |key: &str| loaded.origins.get(key).cloned().unwrap_or_default();
    assert_eq!(origin("server.listen"), Origin::Flag("--listen"));
    assert_eq!(origin("jobs.lease"), Origin::Environment("KEYSTEP__JOBS__LEASE".to_owned()));
    assert_eq!(origin("jobs.extend_every"), Origin::File(path));
    assert_eq!(origin("jobs.retention"), Origin::Default);
}

#[test]
fn a_flag_that_is_given_twice_makes_a_list() {
    let loaded = load(&Sources {
        environment: variables(&[("KEYSTEP__STORAGE__OUTPUTS", "s3://old/x")]),
        flags: vec![
            flag("--output", "storage.outputs", "s3://a/x"),
            flag("--output", "storage.outputs", "s3://b/with,comma"),
        ],
        ..Sources::default()
    });
    assert_eq!(loaded.unwrap().settings.storage.outputs, ["s3://a/x", "s3://b/with,comma"]);
}

#[test]
fn every_violation_is_reported_at_once_with_its_origin() {
    let found = violations(load(&Sources {
        environment: variables(&[
            ("KEYSTEP__SERVER__LISTEN", "0.0.0.0:50051"),
            ("KEYSTEP__JOBS__MAX_ATTEMPTS", "many"),
            ("KEYSTEP__JOBS__LEASE", "20s"),
            ("KEYSTEP__NO__SUCH", "1"),
            ("KEYSTEP__STORAGE__OUTPUTS", "s3://good/x,ftp://bad/x"),
        ]),
        flags: vec![flag("--log-level", "log.level", "a=b=c")],
        ..Sources::default()
    }));
    let mut named = keys(&found);
    named.sort_unstable();
    let expected = [
        "KEYSTEP__NO__SUCH", "jobs.lease", "jobs.max_attempts", "log.level", "server.listen",
        "storage.outputs[1]",
    ];
    assert_eq!(named, expected);
    for violation in &found {
        assert_ne!(violation.origin, Origin::Default, "{violation}");
        assert!(!violation.remedy.is_empty(), "{violation}");
    }
    let output = found.iter().find(|violation| violation.key.starts_with("storage")).unwrap();
    let origin = Origin::Environment("KEYSTEP__STORAGE__OUTPUTS".to_owned());
    assert_eq!(output.origin, origin, "an element has the origin of its list");
}

#[test]
fn unknown_sections_and_keys_of_the_file_are_refused() {
    let found = violations(from_file("[server]\nport = 1\n[sever]\nlisten = 1\n[tls]\nkey = 5\n"));
    let mut named = keys(&found);
    named.sort_unstable();
    assert_eq!(named, ["server.port", "sever", "tls.key"]);
    let unknown = violations(from_file("[[models]]\nname = \"a\"\nurl = \"s3://b/c\"\nsha = 1\n"));
    assert_eq!(keys(&unknown), ["models"]);
}

#[test]
fn what_is_open_to_the_network_is_encrypted_and_known() {
    let exposed = |lines: &str| from_file(&format!("[server]\nlisten = \"0.0.0.0:1\"\n{lines}"));
    let problem = |lines: &str| violations(exposed(lines))[0].problem.clone();
    assert!(problem("").ends_with("without TLS and authentication"));
    let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    assert!(problem(tls).ends_with("without authentication"));
    let tokens = "[authentication]\ntoken_file = \"t\"\n";
    assert!(problem(tokens).ends_with("without TLS"));
    assert!(exposed(&format!("{tls}{tokens}")).is_ok());
    assert!(exposed(&format!("{tls}client_ca = \"a\"\n")).is_ok());
    assert!(exposed("insecure = true\n").is_ok());
}

#[test]
fn a_line_that_is_no_toml_is_named_and_not_shown() {
    let error = from_file("[storage]\nregion = \"x\"\nhunter2 hunter3\n").unwrap_err();
    let text = error.lines().join("\n");
    assert!(text.contains("line 3") && !text.contains("hunter"), "{text}");
}

#[test]
fn secrets_come_from_the_environment_or_a_file_and_are_never_shown() {
    let environment = variables(&[
        ("KEYSTEP__STORAGE__SECRET_ACCESS_KEY", " hunter2\n"),
        ("KEYSTEP__STORAGE__ACCESS_KEY_ID", "me"),
    ]);
    let loaded = load(&Sources { environment, ..Sources::default() }).unwrap();
    let secret = loaded.settings.storage.secret_access_key.as_ref().unwrap();
    assert_eq!(secret.expose(), "hunter2");
    let shown = format!("{loaded:?}\n{}", print(&loaded).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("***"), "{shown}");

    let refused = violations(from_file("[storage]\nsecret_access_key = \"hunter2\"\n"));
    assert_eq!(keys(&refused), ["storage.secret_access_key"]);
    assert!(!format!("{refused:?}").contains("hunter2"));
}

#[test]
fn passwords_within_urls_are_refused_and_never_shown() {
    let text = "[storage]\nendpoint = \"https://me:hunter2@minio:9000\"\n\
                outputs = [\"s3://me:hunter2@bucket/x\"]\n\
                [[models]]\nname = \"a\"\nurl = \"s3://me:hunter2@bucket/x\"\n";
    let found = violations(from_file(text));
    let named = keys(&found);
    assert_eq!(named, ["storage.outputs[0]", "storage.endpoint", "models[0].url"]);
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}

#[test]
fn keys_within_urls_are_refused_and_never_shown() {
    for (text, key) in [
        ("[storage]\nendpoint = \"https://minio/?sig=hunter2\"\n", "storage.endpoint"),
        ("[storage]\nendpoint = \"https://minio/#hunter2\"\n", "storage.endpoint"),
        ("[storage]\nendpoint = \"ftp://minio/?sig=hunter2\"\n", "storage.endpoint"),
        ("[storage]\noutputs = [\"s3://b/x?sig=hunter2\"]\n", "storage.outputs[0]"),
        ("[storage]\noutputs = [\"https://h/x?sig=hunter2\"]\n", "storage.outputs[0]"),
        ("[storage]\noutputs = \"s3://b/x?sig=hunter2\"\n", "storage.outputs"),
        ("[jobs]\nstate_url = \"s3://b/x?sig=hunter2\"\n", "jobs.state_url"),
        ("models = [{ name = \"a\", url = \"s3://b/x?sig=hunter2\" }]\n", "models[0].url"),
        ("models = [{ name = 1, url = \"s3://b/x?sig=hunter2\" }]\n", "models"),
        ("models = [{ nam = \"a\", url = \"s3://me:hunter2@b/x\" }]\n", "models"),
        ("[server]\nlisten = \"https://me:hunter2@h/\"\n", "server.listen"),
    ] {
        let found = violations(from_file(text));
        assert!(keys(&found).contains(&key), "{text}: {found:?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }
}

#[test]
fn more_than_one_slot_needs_a_device_that_is_named() {
    let found = violations(from_file("[device]\nslots = 2\n"));
    assert_eq!(keys(&found), ["device.slots"]);
    assert!(found[0].problem.contains("device.name is \"auto\""), "{}", found[0].problem);
    assert_eq!(keys(&violations(from_file("[device]\nslots = 0\n"))), ["device.slots"]);
    for name in ["cpu", "cuda:1"] {
        from_file(&format!("[device]\nname = \"{name}\"\nslots = 2\n")).unwrap();
    }
}

#[test]
fn a_key_signs_for_a_builder_that_is_named() {
    for (text, key) in [
        ("key_file = \"key.pem\"", "signing.key_file"),
        ("builder_id = \"https://models.example\"", "signing.builder_id"),
        ("key_file = \"key.pem\"\nbuilder_id = \"models\"", "signing.builder_id"),
    ] {
        let found = violations(from_file(&format!("[signing]\n{text}\n")));
        assert_eq!(keys(&found), [key], "{text}");
    }
    let both = "[signing]\nkey_file = \"key.pem\"\nbuilder_id = \"https://models.example\"\n";
    from_file(both).unwrap();
}

#[test]
fn files_that_are_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("s3-key");
    fs::write(&key, "hunter2\n").unwrap();
    let path = |name: &str| Some(folder.path().join(name));
    let mut loaded = Loaded::default();
    loaded.settings.storage.secret_access_key_file = Some(key.clone());
    let opened = open_files(&loaded).unwrap();
    assert_eq!(opened.storage.secret_access_key.unwrap().expose(), "hunter2");

    fs::write(&key, "\n").unwrap();
    loaded.settings.tls.certificate = path("none.pem");
    loaded.settings.tls.key = Some(folder.path().to_owned());
    loaded.settings.authentication.token_file = path("none.toml");
    let Err(ConfigError::Invalid { violations }) = open_files(&loaded) else {
        panic!("files that are not there were opened")
    };
    let expected = [
        "tls.certificate",
        "tls.key",
        "authentication.token_file",
        "storage.secret_access_key_file",
    ];
    assert_eq!(keys(&violations), expected);
}

#[test]
fn what_is_printed_gives_the_same_settings_again() {
    let text = "[server]\ndata_dir = \"a \\\"b\\\"\"\n[storage]\noutputs = [\"s3://a/b\"]\n\
                [jobs]\nretention = \"7d\"\n[device]\nthreads = 3\n\
                [judges]\nvit = \"/srv/judges/vit\"\n\
                [[models]]\nname = \"sd\"\nurl = \"s3://b/c\"\n";
    let loaded = from_file(text).unwrap();
    assert_eq!(loaded.settings.judges["vit"], PathBuf::from("/srv/judges/vit"));
    let printed = print(&loaded).unwrap();
    assert_eq!(from_file(&printed).unwrap().settings, loaded.settings, "{printed}");
    assert!(printed.contains("threads = 3 # file "), "{printed}");
    assert!(printed.contains("loaded_models = 2 # default"), "{printed}");
}

#[test]
fn every_sample_is_of_the_kind_that_its_key_takes() {
    for key in Settings::keys().filter(|key: &Key| key.kind != Kind::Secret) {
        let line = format!("#{} = ", key.name);
        assert!(sample_file().contains(&line), "{line}");
    }
    // As the operator would: every line without its mark.
    let uncommented: String = sample_file()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(entry) if !entry.starts_with(' ') && !entry.is_empty() => format!("{entry}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let loaded = from_file(&uncommented).unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    assert_eq!(loaded.settings.storage.region.as_deref(), Some("eu-central-1"));
    assert!(from_file(&sample_file()).unwrap().settings == Settings::default());
}

#[test]
fn the_reference_and_the_sample_are_up_to_date() {
    for (path, wanted) in
        [("docs/configuration.md", reference_page()), ("deploy/keystep.toml", sample_file())]
    {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &wanted).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(found == wanted, "{path} is stale; UPDATE_REFERENCE=1 cargo test --lib config::");
    }
}
