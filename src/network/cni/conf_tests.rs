//! Tests of reading CNI configurations.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn list(value: Value) -> Result<NetworkList, String> {
    NetworkList::from_value(Path::new("/etc/cni/net.d/10-x.conflist"), value)
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn the_first_file_by_name_counts() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load(dir.path()).unwrap().is_none());
    assert!(load(&dir.path().join("missing")).unwrap().is_none());
    write(
        dir.path(),
        "20-b.conflist",
        r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"bridge"}]}"#,
    );
    write(
        dir.path(),
        "10-a.conf",
        r#"{"cniVersion":"0.3.1","name":"a","type":"ptp","mtu":9}"#,
    );
    write(dir.path(), "00-readme.txt", "not a configuration");
    fs::create_dir(dir.path().join("05-dir.conf")).unwrap();
    let found = load(dir.path()).unwrap().unwrap();
    assert_eq!(
        (found.name.as_str(), found.plugins[0].kind.as_str()),
        ("a", "ptp")
    );
    assert_eq!(found.version.to_string(), "0.3.1");
    assert_eq!(found.plugins[0].raw["mtu"], 9);
}

#[test]
fn a_broken_first_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "20-b.conflist",
        r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"bridge"}]}"#,
    );
    write(dir.path(), "10-a.conflist", r#"{"cniVersion":"1.0.0","#);
    let error = load(dir.path()).unwrap_err();
    assert!(
        error.contains("10-a.conflist") && error.contains("JSON"),
        "{error}"
    );
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    let cases = [
        (json!([]), "object"),
        (json!({"name":"x"}), "no plugins"),
        (json!({"name":"x","plugins":[]}), "no plugins"),
        (json!({"name":"x","plugins":{}}), "no list"),
        (json!({"name":"x","plugins":[1]}), "plugin 1 is not"),
        (
            json!({"name":"x","plugins":[{"type":"a"},{"kind":"b"}]}),
            "plugin 2 has no \"type\"",
        ),
        (
            json!({"name":"x","plugins":[{"type":"../../bin/sh"}]}),
            "plain name",
        ),
        (json!({"plugins":[{"type":"a"}]}), "no \"name\""),
        (json!({"name":"../x","plugins":[{"type":"a"}]}), "network name"),
        (
            json!({"name":"x","cniVersion":"2.0.0","plugins":[{"type":"a"}]}),
            "not supported",
        ),
        (
            json!({"name":"x","cniVersion":"one","plugins":[{"type":"a"}]}),
            "no CNI version",
        ),
        (
            json!({"name":"x","cniVersion":1,"plugins":[{"type":"a"}]}),
            "no text",
        ),
    ];
    for (value, expected) in cases {
        let error = list(value.clone()).unwrap_err();
        assert!(
            error.contains(expected) && error.contains("10-x.conflist"),
            "{value}: {error}"
        );
    }
}

#[test]
fn the_newest_version_both_know_is_used() {
    let value = json!({"name":"x","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","9.0.0"],"plugins":[{"type":"a"}]});
    assert_eq!(list(value).unwrap().version, Version::V1_1_0);
    let unversioned = json!({"name":"x","plugins":[{"type":"a"}]});
    assert_eq!(list(unversioned).unwrap().version, Version::OLDEST);
}

#[test]
fn capabilities_count_only_when_on() {
    let value = json!({"name":"x","plugins":[
        {"type":"a","capabilities":{"portMappings":true,"bandwidth":false}}, {"type":"b","capabilities":"odd"}]});
    let found = list(value).unwrap();
    assert!(found.has_capability("portMappings"));
    assert!(!found.has_capability("bandwidth"));
}

#[test]
fn a_missing_binary_is_named_with_where_it_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = vec![dir.path().join("one"), dir.path().to_owned()];
    let error = find_binary("bridge", &dirs).unwrap_err();
    assert!(error.contains("bridge") && error.contains("one, "), "{error}");
    write(dir.path(), "bridge", "");
    assert!(
        find_binary("bridge", &dirs)
            .unwrap_err()
            .contains("not an executable")
    );
    fs::set_permissions(dir.path().join("bridge"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(find_binary("bridge", &dirs).unwrap(), dir.path().join("bridge"));
}

#[test]
fn a_list_is_completed_from_its_directory_unless_it_says_no() {
    let dir = tempfile::tempdir().unwrap();
    let inline = r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"bridge"}]}"#;
    write(dir.path(), "10.conflist", inline);
    assert_eq!(load(dir.path()).unwrap().unwrap().plugins.len(), 1);
    fs::create_dir(dir.path().join("net")).unwrap();
    write(&dir.path().join("net"), "50-extra.conf", r#"{"type":"tuning"}"#);
    let found = load(dir.path()).unwrap().unwrap();
    assert_eq!(found.plugins[1].kind, "tuning");
    assert_eq!(found.raw["plugins"].as_array().unwrap().len(), 2);
    write(
        dir.path(),
        "10.conflist",
        r#"{"cniVersion":"1.1.0","name":"net"}"#,
    );
    assert_eq!(load(dir.path()).unwrap().unwrap().plugins[0].kind, "tuning");
    write(
        dir.path(),
        "10.conflist",
        &inline.replace("\"name\"", "\"loadOnlyInlinedPlugins\":true,\"name\""),
    );
    assert_eq!(load(dir.path()).unwrap().unwrap().plugins.len(), 1);
}
