//! Users, capabilities, limits, privileges.

use serde_json::{Value, json};

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("user_and_groups", user_and_groups),
    ("capabilities_of_root", capabilities_of_root),
    ("ambient_capabilities", ambient_capabilities),
    ("unavailable_capability_is_noted", unavailable_capability_is_noted),
    ("rlimits", rlimits),
    ("raising_a_limit_is_noted", raising_a_limit_is_noted),
    ("oom_score_adj", oom_score_adj),
    ("no_new_privileges", no_new_privileges),
    ("seccomp_before_and_after_caps", seccomp_before_and_after_caps),
];

fn status(bundle: &Bundle) -> impl Fn(&str) -> String + use<> {
    let out = bundle.run().unwrap();
    assert_eq!(out.code, 0, "{out:?}");
    move |key: &str| {
        let line = out.stdout.lines().find(|l| l.starts_with(&format!("{key}:")));
        line.map(|l| l[key.len() + 1..].trim().to_owned())
            .unwrap_or_default()
    }
}

fn user_and_groups() {
    let mut bundle = Bundle::new("id; umask");
    bundle.spec["process"]["user"] =
        json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 7], "umask": 0o27});
    let out = bundle.run().unwrap();
    assert!(
        out.stdout
            .starts_with("uid=1000(web) gid=1000(web) groups=1000(web),5,7")
            || out.stdout.starts_with("uid=1000(web) gid=1000(web) groups=5,7"),
        "{out:?}"
    );
    assert!(out.stdout.ends_with("0027\n"), "{out:?}");
}

fn capabilities_of_root() {
    let bundle = Bundle::with_args(&["cat", "/proc/self/status"]);
    let field = status(&bundle);
    // CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE.
    let bits = format!("{:016x}", 1u64 << 29 | 1 << 5 | 1 << 10);
    for key in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(key), bits, "{key}");
    }
    assert_eq!(field("CapAmb"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
}

fn ambient_capabilities() {
    let mut bundle = Bundle::with_args(&["cat", "/proc/self/status"]);
    bundle.spec["process"]["user"]["uid"] = json!(1000);
    let set = json!(["CAP_NET_BIND_SERVICE"]);
    for key in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        bundle.spec["process"]["capabilities"][key] = set.clone();
    }
    let field = status(&bundle);
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(key), format!("{:016x}", 1 << 10), "{key}");
    }
    // Without ambient an ordinary user has none in force.
    bundle.spec["process"]["capabilities"]["ambient"] = Value::Null;
    assert_eq!(status(&bundle)("CapEff"), "0000000000000000");
}

fn unavailable_capability_is_noted() {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = husk::types::CapSet::from_proc_status(&own, "CapPrm").unwrap();
    let all = husk::types::CapSet::ALL;
    if own == all {
        println!("  (husk has all capabilities here: nothing to leave out)");
        return;
    }
    let mut bundle = Bundle::new("exit 0");
    let names: Vec<String> = all.iter().map(|c| c.to_string()).collect();
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": names, "effective": names, "permitted": names});
    let out = bundle.run().unwrap();
    assert!(out.notes.iter().any(|n| n.contains("left out")), "{out:?}");
}

fn rlimits() {
    let mut bundle = Bundle::new("ulimit -n; ulimit -c");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "100\n0\n");
    assert!(out.notes.is_empty(), "{out:?}");
}

fn raising_a_limit_is_noted() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caps = husk::types::CapSet::from_proc_status(&status, "CapEff").unwrap();
    let mut bundle = Bundle::new("ulimit -n");
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 1u64 << 40}]);
    // Above fs.nr_open nobody may go, with any capability.
    let out = bundle.run().unwrap();
    assert!(
        out.notes.iter().any(|n| n.contains("resource limit")),
        "{out:?} {caps:?}"
    );
    assert_eq!(out.stdout, "300\n");
}

fn oom_score_adj() {
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj");
    bundle.spec["process"]["oomScoreAdj"] = json!(500);
    assert_eq!(bundle.run().unwrap().stdout, "500\n");
    bundle.spec["process"]["oomScoreAdj"] = json!(-998);
    let out = bundle.run().unwrap();
    let lowered = out.stdout == "-998\n";
    assert_eq!(lowered, out.notes.is_empty(), "{out:?}");
    if !lowered {
        bundle.options.require_oom_score_adj = true;
        let error = bundle.run().unwrap_err();
        assert!(error.to_string().contains("oom_score_adj -998"), "{error}");
    }
}

fn no_new_privileges() {
    let mut bundle = Bundle::with_args(&["cat", "/proc/self/status"]);
    bundle.spec["process"]["noNewPrivileges"] = json!(false);
    assert_eq!(status(&bundle)("NoNewPrivs"), "0");
}

fn seccomp_before_and_after_caps() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["uname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    let (program, _) = husk::seccomp::compile(&serde_json::from_value(profile).unwrap()).unwrap();
    let mut bundle = Bundle::new("mkdir /x || cat /proc/self/status");
    bundle.options.seccomp = Some(husk::spec::plan::SeccompProgram {
        filter: program.filter,
        flags: program.flags,
    });
    for nnp in [true, false] {
        for uid in [0, 1000] {
            bundle.spec["process"]["noNewPrivileges"] = json!(nnp);
            bundle.spec["process"]["user"]["uid"] = json!(uid);
            let field = status(&bundle);
            assert_eq!(field("Seccomp"), "2");
            assert_eq!(field("NoNewPrivs"), if nnp { "1" } else { "0" });
            let expected = if uid == 0 {
                1u64 << 29 | 1 << 5 | 1 << 10
            } else {
                0
            };
            assert_eq!(
                field("CapEff"),
                format!("{expected:016x}"),
                "uid {uid}, nnp {nnp}"
            );
        }
    }
}
