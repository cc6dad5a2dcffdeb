//! libFuzzer over the target that `HUSK_FUZZ_TARGET` names: one program for all, as they share everything but that.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fn chosen() -> &'static husk_fuzz::Target {
    static CHOSEN: OnceLock<&husk_fuzz::Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let names: Vec<_> = husk_fuzz::TARGETS.iter().map(|t| t.name).collect();
        let name = std::env::var("HUSK_FUZZ_TARGET").unwrap_or_default();
        husk_fuzz::find(&name).unwrap_or_else(|| panic!("HUSK_FUZZ_TARGET={name:?}: it is one of {names:?}"))
    })
}

fuzz_target!(|data: &[u8]| {
    (chosen().run)(data);
});
