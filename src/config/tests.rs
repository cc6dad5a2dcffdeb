#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_missing_file_means_defaults() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        load(&dir.path().join("none.toml"), false).unwrap(),
        Config::default()
    );
    assert!(load(&dir.path().join("none.toml"), true).is_err());
}

#[test]
fn drop_ins_override_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(
        &file,
        "root = \"/a\"\n[network]\nnetns_pool = 9\nbuiltin = true\n",
    )
    .unwrap();
    std::fs::create_dir(dir.path().join("config.toml.d")).unwrap();
    std::fs::write(
        dir.path().join("config.toml.d/10.toml"),
        "[network]\nnetns_pool = 1\n",
    )
    .unwrap();
    let config = load(&file, true).unwrap();
    assert_eq!(config.network.netns_pool, 1);
    assert!(config.network.builtin);
    assert_eq!(config.root, std::path::Path::new("/a"));
}

#[test]
fn an_unknown_key_names_line_and_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "root = \"/a\"\n[network]\nnetns_pol = 9\n").unwrap();
    let message = load(&file, true).unwrap_err().to_string();
    assert!(message.contains("line 3"), "{message}");
    assert!(message.contains("did you mean `netns_pool`?"), "{message}");
    assert!(message.contains("config.toml"), "{message}");
}

#[test]
fn impossible_values_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for text in [
        "root = \"relative\"",
        "[image]\nmax_concurrent_downloads = 0",
        "[image]\nverifier_dir = \"relative\"",
        "[image]\nverifier_timeout_secs = 0",
        "run = 3",
        "[log]\nformat = \"xml\"",
        "[nri]\nenabled = true\nsocket = \"nri.sock\"",
        "[nri]\nplugin_request_timeout_secs = 0",
        "[stream]\ntls_cert = \"/etc/husk/tls.crt\"",
        "[stream]\ntls_key = \"/etc/husk/tls.key\"",
        "[runtime.runc]\npath = \"runc\"",
        "[runtime.runc]\nroot = \"/run/runc\"",
        "[runtime.husk]\npath = \"/usr/sbin/runc\"",
        "[runtime.\"A b\"]\npath = \"/usr/sbin/runc\"",
        "[runtime.a]\ndefault = true\n[runtime.b]\ndefault = true",
    ] {
        std::fs::write(&file, text).unwrap();
        assert!(load(&file, true).is_err(), "{text}");
    }
}

#[test]
fn handlers_are_tables_of_their_own_and_as_strict() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(
        &file,
        "[runtime.runc]\npath = \"/usr/sbin/runc\"\n[runtime.husk]\ncgroup_writable = true\n",
    )
    .unwrap();
    let config = load(&file, true).unwrap();
    assert!(!config.runtime["runc"].is_builtin() && config.runtime["husk"].is_builtin());
    std::fs::write(&file, "[runtime.runc]\npth = \"/usr/sbin/runc\"\n").unwrap();
    let message = load(&file, true).unwrap_err().to_string();
    assert!(message.contains("did you mean `path`?"), "{message}");
}

#[test]
fn the_shipped_example_is_the_default() {
    let text = include_str!("../../deploy/config.toml");
    assert_eq!(toml::from_str::<Config>(text).unwrap(), Config::default());
}
