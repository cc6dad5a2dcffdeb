//! Descriptions of devices.

use super::{Seed, bytes};

/// In JSON and YAML, and a YAML file that unfolds to far more than it is.
pub fn files() -> Vec<Seed> {
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, last) in ["b", "c", "d", "e", "f", "g", "h", "i"]
        .iter()
        .zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        laughs +=
            &format!("{name}: &{name} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n");
    }
    vec![
        (
            "json",
            bytes(
                r#"{"cdiVersion":"0.6.0","kind":"vendor.example/gpu","devices":[{"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/null","type":"c","permissions":"rw"}],"env":["A=B"]}}],"containerEdits":{"mounts":[{"hostPath":"/srv","containerPath":"/srv","options":["ro","rbind"]}],"hooks":[{"hookName":"createContainer","path":"/bin/hook","args":["hook"]}]}}"#,
            ),
        ),
        (
            "yaml",
            bytes(
                "cdiVersion: 0.5.0\nkind: vendor.example/nic\ndevices:\n- name: eth\n  containerEdits:\n    env: [\"A=B\"]\n    deviceNodes:\n    - path: /dev/x\n      hostPath: /dev/y\ncontainerEdits: {}\n",
            ),
        ),
        ("yaml-laughs", bytes(&laughs)),
    ]
}
