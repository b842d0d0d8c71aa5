//! The picture that a drawing starts from.

#![no_main]

use keystep::report::{PictureLimits, read_png};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = PictureLimits { sides: 8..=256, pixels: 128 * 128 };
    if let Ok(picture) = read_png(bytes, &limits) {
        assert_eq!(picture.rgb.len(), picture.width * picture.height * 3);
        assert!(picture.width * picture.height <= limits.pixels);
    }
});
