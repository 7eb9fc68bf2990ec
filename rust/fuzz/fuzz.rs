//! Fuzzes the target that `ATB_FAST_FUZZ` names with libFuzzer.
#![no_main]

#[path = "../tests/targets.rs"]
mod targets;

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("ATB_FAST_FUZZ").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(each, _)| *each == name);
        found.expect("ATB_FAST_FUZZ is the name of a target").1
    });
    target(data);
});
