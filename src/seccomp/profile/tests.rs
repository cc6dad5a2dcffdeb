#![allow(clippy::unwrap_used)]
use super::*;
use crate::types::Kind;

fn environment(caps: CapSet) -> Environment {
    Environment {
        native: Abi::X86_64,
        caps,
        kernel: (6, 1),
    }
}

fn parsed(json: &str) -> LinuxSeccomp {
    parse("p.json", json.as_bytes(), &environment(CapSet::DEFAULT)).unwrap()
}

fn names(profile: &LinuxSeccomp) -> Vec<String> {
    let syscalls = profile.syscalls().iter().flatten();
    syscalls.flat_map(|s| s.names().clone()).collect()
}

/// The profile in Kubernetes' documentation.
#[test]
fn reads_oci_profiles() {
    let profile = parsed(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["accept4", "clone"], "action": "SCMP_ACT_ALLOW",
                          "args": [{"index": 0, "value": 18446744073709551615, "valueTwo": 3,
                                    "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActErrno);
    assert_eq!(
        profile.architectures().as_deref(),
        Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
    );
    assert_eq!(names(&profile), ["accept4", "clone"]);
    let arg = profile.syscalls().as_ref().unwrap()[0].args().as_ref().unwrap()[0];
    assert_eq!((arg.value(), arg.value_two()), (u64::MAX, Some(3)));
}

/// What serialises as an OCI profile reads back as the same.
#[test]
fn default_profile_survives_the_round_trip() {
    let profile = super::super::default_profile(CapSet::DEFAULT);
    let json = serde_json::to_vec(&profile).unwrap();
    assert_eq!(parse("p", &json, &environment(CapSet::DEFAULT)).unwrap(), profile);
}

const CONDITIONAL: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
    "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
      {"names": ["always"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x", "includes": {}, "excludes": {}},
      {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
      {"names": ["x86"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
      {"names": ["not_x86"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
      {"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
      {"names": ["not_admin"], "action": "SCMP_ACT_ERRNO", "errno": "EINVAL", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
      {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_SYSLOG"]}},
      {"names": ["future_cap"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_FUTURE"]}},
      {"names": ["old"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
      {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
      {"name": "single", "action": "SCMP_ACT_ALLOW"}]}"#;

#[test]
fn reads_dockers_conditions() {
    let profile = parsed(CONDITIONAL);
    assert_eq!(names(&profile), ["always", "x86", "not_admin", "old", "single"]);
    assert_eq!(profile.default_errno_ret(), Some(38));
    assert_eq!(
        profile.syscalls().as_ref().unwrap()[2].errno_ret(),
        Some(libc::EINVAL.unsigned_abs())
    );
    assert_eq!(
        profile.architectures().as_deref(),
        Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32][..])
    );

    let admin = environment(CapSet::of(&[Capability::SYS_ADMIN]));
    let profile = parse("p", CONDITIONAL.as_bytes(), &admin).unwrap();
    assert_eq!(names(&profile), ["always", "x86", "admin", "old", "single"]);
}

#[test]
fn errors_name_file_and_field() {
    for (json, field) in [
        ("", "not JSON"),
        ("[]", "expected an object"),
        ("{}", "defaultAction is missing"),
        (
            r#"{"defaultAction": "ALLOW"}"#,
            r#"defaultAction: "ALLOW" found, expected an action"#,
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1}"#,
            "defaultErrnoRet: -1 found",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}"#,
            r#"defaultErrno: "EWHAT""#,
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["x86_64"]}"#,
            "architectures[0]: ",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "flags": ["X"]}"#,
            "flags[0]: ",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": {}}"#,
            "syscalls: {} found, expected a list",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["x"]}]}"#,
            "syscalls[0]: action is missing",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_LOG"}]}"#,
            "syscalls[0]: names is missing",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_LOG", "names": [""]}]}"#,
            "syscalls[0].names[0]: is empty",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_LOG", "names": ["x"],
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
            "syscalls[0].args[0].index: 6 found",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_LOG", "names": ["x"],
                "args": [{"index": 0, "value": 1, "op": "=="}]}]}"#,
            "syscalls[0].args[0].op: ",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_LOG", "names": ["x"],
                "includes": {"minKernel": "new"}}]}"#,
            "syscalls[0].includes.minKernel: ",
        ),
    ] {
        let error = parse("/profiles/p.json", json.as_bytes(), &environment(CapSet::EMPTY)).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let message = error.message();
        assert!(
            message.starts_with("seccomp profile /profiles/p.json: ") && message.contains(field),
            "{json}: {message}"
        );
    }
}

#[test]
fn size_is_bounded() {
    let json = vec![b' '; MAX_BYTES + 1];
    let error = parse("p", &json, &environment(CapSet::EMPTY)).unwrap_err();
    assert!(error.message().contains("1048577 bytes"), "{error}");
}
