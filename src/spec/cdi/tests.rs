#![allow(clippy::unwrap_used)]

use super::edits::{HostNode, apply};
use super::*;
use oci_spec::runtime::{LinuxDeviceType, Spec};

const YAML: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
annotations: {a: b}
containerEdits:
  env: [ALL=1]
  hooks:
    - hookName: createContainer
      path: /usr/bin/hook
      args: [hook, --now]
devices:
  - name: gpu0
    containerEdits:
      env: ["PATH=/gpu", GPU=0]
      deviceNodes:
        - path: /dev/gpu0
        - {path: /dev/renamed, hostPath: /dev/real, permissions: rw, uid: 7}
      mounts:
        - {hostPath: /usr/lib/gpu.so, containerPath: /usr/lib/gpu.so, options: [ro, nosuid]}
      additionalGids: [44, 0]
  - name: gpu1
    containerEdits: {env: [GPU=1]}
"#;

fn input(path: &str, priority: usize, content: &str) -> Input {
    Input {
        path: path.into(),
        priority,
        content: Ok(content.as_bytes().to_vec()),
    }
}

fn json(kind: &str, device: &str, env: &str) -> String {
    format!(
        r#"{{"cdiVersion":"0.5.0","kind":"{kind}","devices":[{{"name":"{device}","containerEdits":{{"env":["{env}"]}}}}]}}"#
    )
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|n| (*n).to_owned()).collect()
}

fn dirs() -> Vec<PathBuf> {
    vec!["/etc/cdi".into(), "/var/run/cdi".into()]
}

fn host(path: &Path) -> Result<HostNode> {
    match path.to_str() {
        Some("/dev/gpu0") => Ok(HostNode {
            kind: LinuxDeviceType::C,
            major: 195,
            minor: 0,
            mode: 0o666,
        }),
        Some("/dev/real") => Ok(HostNode {
            kind: LinuxDeviceType::B,
            major: 8,
            minor: 1,
            mode: 0o600,
        }),
        _ => Err(Error::not_found(path.display().to_string())),
    }
}

#[test]
fn a_device_edits_the_spec() {
    let registry = Registry::read(vec![input("/etc/cdi/v.yaml", 0, YAML)]);
    let edits = registry
        .resolve(
            &names(&["vendor.com/gpu=gpu0", "vendor.com/gpu=gpu1"]),
            &[],
            &dirs(),
        )
        .unwrap();
    let mut spec: Spec = serde_json::from_value(serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 5, "gid": 6}, "cwd": "/", "env": ["PATH=/bin", "GPU=none"], "args": ["x"]},
        "mounts": [{"destination": "/usr/lib/gpu.so/below"}, {"destination": "/usr/lib/gpu.so"}, {"destination": "/proc"}],
        "linux": {"devices": [{"path": "/dev/gpu0", "type": "b", "major": 1, "minor": 1}]},
    }))
    .unwrap();
    apply(&edits, &mut spec, host).unwrap();
    let spec = serde_json::to_value(&spec).unwrap();
    assert_eq!(
        spec["process"]["env"],
        serde_json::json!(["PATH=/gpu", "GPU=1", "ALL=1"])
    );
    assert_eq!(spec["process"]["user"]["additionalGids"], serde_json::json!([44]));
    assert_eq!(
        spec["linux"]["devices"],
        serde_json::json!([
            {"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 0, "fileMode": 0o666, "uid": 5, "gid": 6},
            {"path": "/dev/renamed", "type": "b", "major": 8, "minor": 1, "fileMode": 0o600, "uid": 7, "gid": 6},
        ])
    );
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        serde_json::json!([
            {"allow": true, "type": "c", "major": 195, "minor": 0, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "rw"},
        ])
    );
    let places: Vec<_> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/proc", "/usr/lib/gpu.so", "/usr/lib/gpu.so/below"]);
    assert_eq!(
        spec["mounts"][1]["options"],
        serde_json::json!(["ro", "nosuid", "rbind"])
    );
    // What holds for all devices of a file comes once.
    assert_eq!(
        spec["hooks"]["createContainer"],
        serde_json::json!([{"path": "/usr/bin/hook", "args": ["hook", "--now"]}])
    );
}

#[test]
fn what_a_container_has_already_is_not_added_again() {
    let registry = Registry::read(vec![input("/etc/cdi/v.yaml", 0, YAML)]);
    let (one, two) = ("vendor.com/gpu=gpu0", "vendor.com/gpu=gpu1");
    let edits = |wanted: &[&str], given: &[&str]| {
        let edits = registry.resolve(&names(wanted), &names(given), &dirs()).unwrap();
        edits.len()
    };
    // Those of the file, and those of each device.
    assert_eq!(edits(&[one, two], &[]), 3);
    assert_eq!(edits(&[one, two], &[one]), 1);
    assert_eq!(edits(&[two], &[two]), 0);
    // What has gone since, or was never there, takes nothing away.
    assert_eq!(edits(&[one], &["vendor.com/gpu=gone"]), 2);
}

#[test]
fn a_later_directory_wins_and_equals_conflict() {
    let low = json("v.com/c", "d", "WHICH=low");
    let high = json("v.com/c", "d", "WHICH=high");
    let wanted = names(&["v.com/c=d"]);
    for order in [[(0, &low), (1, &high)], [(1, &high), (0, &low)]] {
        let inputs = order.map(|(p, c)| input(&format!("/{p}/x.json"), p, c));
        let registry = Registry::read(inputs.into());
        let edits = registry.resolve(&wanted, &[], &dirs()).unwrap();
        assert!(edits.iter().any(|e| e.env == ["WHICH=high"]), "{edits:?}");
    }
    let both = Registry::read(vec![input("/0/a.json", 0, &low), input("/0/b.json", 0, &high)]);
    let error = both.resolve(&wanted, &[], &dirs()).unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.message().contains("/0/a.json and /0/b.json"), "{error}");
    // A later directory settles it.
    let settled = Registry::read(vec![
        input("/0/a.json", 0, &low),
        input("/0/b.json", 0, &low),
        input("/1/c.json", 1, &high),
    ]);
    assert!(settled.resolve(&wanted, &[], &dirs()).is_ok());
}

#[test]
fn a_device_that_is_not_found_is_named_with_the_directories_and_bad_files() {
    let unreadable = Input {
        path: "/etc/cdi/secret.json".into(),
        priority: 0,
        content: Err("Permission denied".into()),
    };
    let registry = Registry::read(vec![input("/etc/cdi/bad.yaml", 0, "kind: ["), unreadable]);
    let error = registry
        .resolve(&names(&["v.com/c=d"]), &[], &dirs())
        .unwrap_err();
    for part in [
        "v.com/c=d",
        "/etc/cdi, /var/run/cdi",
        "/etc/cdi/bad.yaml: ",
        "secret.json: Permission denied",
    ] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn what_is_not_understood_is_not_left_out() {
    let file = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{{"name":"d","containerEdits":{edits}}}]}}"#
        )
    };
    let parse = |text: &str| format::parse(Path::new("/x.json"), text.as_bytes());
    assert!(parse(&file("{}")).is_ok());
    for bad in [
        file(r#"{"enviroment":[]}"#),
        file("{}").replace("0.6.0", "2.0.0"),
        file("{}").replace("0.6.0", "new"),
        file("{}").replace("v.com/c", "v.com"),
        file("{}").replace("\"d\"", "\"-d\""),
        r#"{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[]}"#.to_owned(),
        r#"{"cdiVersion":"0.6.0","kind":"v.com/c","devices":[{"name":"a"},{"name":"a"}]}"#.to_owned(),
        String::new(),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
    for (edits, part) in [
        (r#"{"intelRdt":{"closID":"x"}}"#, "intelRdt"),
        (r#"{"netDevices":[]}"#, "netDevices"),
        (r#"{"env":["=x"]}"#, "env"),
        (r#"{"deviceNodes":[{"path":"relative"}]}"#, "relative"),
        (
            r#"{"deviceNodes":[{"path":"/dev/gpu0","type":"b"}]}"#,
            "another type",
        ),
        (r#"{"deviceNodes":[{"path":"/dev/none"}]}"#, "/dev/none"),
        (
            r#"{"mounts":[{"hostPath":"/a","containerPath":"b"}]}"#,
            "containerPath",
        ),
        (r#"{"hooks":[{"hookName":"poststop","path":"/h"}]}"#, "poststop"),
    ] {
        let spec = parse(&file(edits)).unwrap();
        let error = apply(&[&spec.devices[0].container_edits], &mut Spec::default(), host).unwrap_err();
        assert!(error.message().contains(part), "{edits}: {error}");
    }
}

#[test]
fn devices_come_from_the_field_and_from_annotations() {
    let annotations: BTreeMap<String, String> = [
        ("cdi.k8s.io/b", "v.com/c=two, v.com/c=one"),
        ("cdi.k8s.io/a", "v.com/c=zero"),
        ("other", "nonsense"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let found = wanted(&names(&["v.com/c=one"]), &annotations).unwrap();
    assert_eq!(found, ["v.com/c=one", "v.com/c=zero", "v.com/c=two"]);
    for bad in [
        "", "v.com/c", "v.com=d", "/c=d", "v/c=", "1v/c=d", "v/c=d ", "v/c=d-", "v/c=a=b",
    ] {
        assert!(wanted(&names(&[bad]), &BTreeMap::new()).is_err(), "{bad:?}");
    }
    assert!(wanted(&names(&["v/c=0:1"]), &BTreeMap::new()).is_ok());
}
