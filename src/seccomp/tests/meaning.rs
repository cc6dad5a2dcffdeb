//! What profiles mean where OCI leaves it open, case by case, and what is refused.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use super::super::bpf::{Data, run};
use super::super::{Abi, Program, compile_for, tables};
use crate::types::{Error, Kind};

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x5_0000;

fn profile(json: Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

/// Default: errno 1. Both ABIs of a PC.
fn compiled(syscalls: Value) -> Program {
    let json = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": syscalls,
    });
    compile_for(Abi::X86_64, &profile(json)).unwrap().0
}

fn refused(json: Value) -> Error {
    compile_for(Abi::X86_64, &profile(json)).unwrap_err()
}

fn call(program: &Program, abi: Abi, name: &str, args: &[u64]) -> u32 {
    let mut data = Data::call(abi.audit(), tables::number(abi, name).unwrap());
    data.args[..args.len()].copy_from_slice(args);
    run(&program.filter, &data).unwrap()
}

#[test]
fn a_rule_without_conditions_silences_the_others() {
    for reversed in [false, true] {
        let mut rules = vec![
            json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW"}),
            json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
                   "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]}),
        ];
        if reversed {
            rules.reverse();
        }
        let program = compiled(Value::Array(rules));
        assert_eq!(call(&program, Abi::X86_64, "socket", &[40]), ALLOW);
    }
}

/// Otherwise such a rule would silence the ones that make exceptions from the default.
#[test]
fn a_rule_with_the_default_action_counts_for_nothing() {
    let program = compiled(json!([
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
    ]));
    assert_eq!(call(&program, Abi::X86_64, "socket", &[1]), ALLOW);
    assert_eq!(call(&program, Abi::X86_64, "socket", &[2]), ERRNO | 1);
}

/// runc's reading: "index 0 is at least 5 and at most 6" is not what this says.
#[test]
fn conditions_on_one_argument_stand_alone() {
    let program = compiled(json!([{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
        {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
        {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
    ]}]));
    for args in [[1, 0], [2, 0], [7, 9]] {
        assert_eq!(call(&program, Abi::X86_64, "socket", &args), ALLOW, "{args:?}");
    }
    assert_eq!(call(&program, Abi::X86_64, "socket", &[3, 3]), ERRNO | 1);
}

#[test]
fn the_strictest_of_overlapping_rules_wins() {
    let program = compiled(json!([
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_LE"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
         "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_GE"}]},
        {"names": ["socket"], "action": "SCMP_ACT_KILL_PROCESS",
         "args": [{"index": 0, "value": 4, "op": "SCMP_CMP_EQ"}]},
    ]));
    let expected = [ALLOW, ALLOW, ALLOW, ERRNO | 7, 0x8000_0000, ERRNO | 7, ERRNO | 7];
    for (value, expected) in expected.into_iter().enumerate() {
        assert_eq!(
            call(&program, Abi::X86_64, "socket", &[value as u64]),
            expected,
            "{value}"
        );
    }
}

/// 32-bit x86 reaches sockets through `socketcall` too.
#[test]
fn doors_follow_the_calls_behind_them() {
    let (socket, bind) = (1, 2);
    let program = compiled(json!([{"names": ["socket", "semop"], "action": "SCMP_ACT_ALLOW"}]));
    assert_eq!(call(&program, Abi::X86, "socketcall", &[socket]), ALLOW);
    assert_eq!(call(&program, Abi::X86, "socketcall", &[bind]), ERRNO | 1);
    assert_eq!(call(&program, Abi::X86, "ipc", &[1]), ALLOW);
    assert_eq!(call(&program, Abi::X86, "ipc", &[2]), ERRNO | 1);

    // What is permitted under conditions is not permitted where conditions cannot be seen.
    let family = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
    let program = compiled(json!([{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": family}]));
    assert_eq!(call(&program, Abi::X86, "socket", &[1]), ALLOW);
    assert_eq!(call(&program, Abi::X86, "socketcall", &[socket]), ERRNO | 1);

    // What is forbidden under conditions is forbidden there altogether.
    let denied = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": family}],
    });
    let program = compile_for(Abi::X86_64, &profile(denied)).unwrap().0;
    assert_eq!(call(&program, Abi::X86, "socket", &[2]), ALLOW);
    assert_eq!(call(&program, Abi::X86, "socketcall", &[socket]), ERRNO | 1);
    assert_eq!(call(&program, Abi::X86, "socketcall", &[bind]), ALLOW);

    // A profile that permits the door permits all behind it.
    let program = compiled(json!([
        {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
    ]));
    assert_eq!(call(&program, Abi::X86, "socketcall", &[socket]), ALLOW);
}

#[test]
fn permissive_defaults_let_new_calls_through() {
    for (action, expected) in [
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_KILL", ERRNO | 38),
        ("SCMP_ACT_ERRNO", ERRNO | 38),
    ] {
        let json =
            json!({"defaultAction": action, "syscalls": [{"names": ["read"], "action": "SCMP_ACT_TRAP"}]});
        let program = compile_for(Abi::X86_64, &profile(json)).unwrap().0;
        let data = Data::call(Abi::X86_64.audit(), 9999);
        assert_eq!(run(&program.filter, &data).unwrap(), expected, "{action}");
    }
}

#[test]
fn nothing_named_means_the_default_for_all() {
    let program = compile_for(Abi::X86_64, &profile(json!({"defaultAction": "SCMP_ACT_ERRNO"})));
    let filter = program.unwrap().0.filter;
    for nr in [0, 435, 9999] {
        assert_eq!(
            run(&filter, &Data::call(Abi::X86_64.audit(), nr)).unwrap(),
            ERRNO | 1
        );
    }
}

#[test]
fn reports_what_has_no_effect() {
    let json = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_S390X", "SCMP_ARCH_ARM"],
        "syscalls": [{"names": ["read", "set_tls", "no_such_call"], "action": "SCMP_ACT_ALLOW"}],
    });
    let ignored = compile_for(Abi::X86_64, &profile(json)).unwrap().1;
    assert_eq!(ignored.syscalls, ["no_such_call"]);
    assert_eq!(ignored.architectures, ["SCMP_ARCH_S390X", "SCMP_ARCH_ARM"]);
}

#[test]
fn flags_are_the_kernels_bits() {
    let flags = |names: &[&str]| {
        let json = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": names});
        compile_for(Abi::X86_64, &profile(json)).unwrap().0.flags
    };
    assert_eq!(flags(&[]), 0);
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_TSYNC"]), 1);
    assert_eq!(
        flags(&["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        6
    );
    assert_eq!(flags(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), 0);
}

#[test]
fn notify_is_refused_by_name() {
    let error = refused(json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}],
    }));
    assert_eq!(error.kind(), Kind::Unimplemented);
    assert!(error.message().contains("SCMP_ACT_NOTIFY"), "{error}");
}

#[test]
fn nonsense_is_refused() {
    let seventh = json!([{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]);
    for json in [
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}),
        json!({"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000}]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": seventh}]}),
    ] {
        assert_eq!(refused(json).kind(), Kind::InvalidArgument);
    }
}

/// The kernel's limit, and one of husk's own in front of it that keeps hostile profiles cheap.
#[test]
fn programs_too_long_for_the_kernel_are_refused() {
    let many = |n: u64| {
        let rules: Vec<Value> = (0..n)
            .map(|i| {
                json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": u64::MAX, "valueTwo": i, "op": "SCMP_CMP_MASKED_EQ"},
                    {"index": 1, "value": i, "op": "SCMP_CMP_EQ"}]})
            })
            .collect();
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})
    };
    let error = refused(many(1000));
    assert!(error.message().contains("the kernel takes 4096"), "{error}");
    let error = refused(many(5000));
    assert!(error.message().contains("more than 4096 rules"), "{error}");
    assert!(compile_for(Abi::X86_64, &profile(many(400))).is_ok());
}
