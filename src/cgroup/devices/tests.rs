#![allow(clippy::unwrap_used)]

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};

use proptest::prelude::*;

use super::*;

fn rule(allow: bool, text: &str) -> LinuxDeviceCgroup {
    let mut words = text.split([' ', ':']);
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(match words.next().unwrap() {
            "a" => LinuxDeviceType::A,
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            _ => LinuxDeviceType::P,
        });
    if let Ok(major) = words.next().unwrap().parse::<i64>() {
        builder = builder.major(major);
    }
    if let Ok(minor) = words.next().unwrap().parse::<i64>() {
        builder = builder.minor(minor);
    }
    builder.access(words.next().unwrap()).build().unwrap()
}

/// Every filter the tests below look at, with rules of all shapes.
fn filters() -> Vec<Filter> {
    [
        vec![],
        vec![rule(true, "a *:* rwm")],
        vec![
            rule(false, "a *:* rwm"),
            rule(true, "b 8:0 r"),
            rule(true, "c 10:* rw"),
            rule(true, "b *:3 w"),
        ],
        vec![
            rule(true, "a *:* rwm"),
            rule(false, "b 8:0 w"),
            rule(false, "c 10:229 rwm"),
        ],
        vec![
            rule(true, "a 7:1 rm"),
            rule(true, "c 1:3 rwm"),
            rule(false, "c 1:* w"),
        ],
    ]
    .iter()
    .map(|rules| Filter::of(rules).unwrap())
    .collect()
}

#[test]
fn the_default_list_is_what_containers_need() {
    let filter = Filter::of(&[rule(false, "a *:* rwm")]).unwrap();
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
        (136, 0),
        (136, 77),
    ] {
        assert!(filter.allows(Kind::Char, major, minor, ALL), "{major}:{minor}");
    }
    assert!(filter.allows(Kind::Block, 8, 0, MKNOD));
    for access in [READ, WRITE, READ | MKNOD] {
        assert!(!filter.allows(Kind::Block, 8, 0, access));
        assert!(!filter.allows(Kind::Char, 1, 1, access));
    }
    assert_eq!(filter.exceptions.len(), 11);
}

#[test]
fn rules_count_in_order() {
    let filter = Filter::of(&[
        rule(true, "b 8:0 rw"),
        rule(false, "a *:* rwm"),
        rule(true, "b 8:1 r"),
    ])
    .unwrap();
    assert!(!filter.allows(Kind::Block, 8, 0, READ));
    assert!(filter.allows(Kind::Block, 8, 1, READ));
    assert!(
        Filter::of(&[rule(false, "a *:* rwm"), rule(true, "a *:* rwm")])
            .unwrap()
            .is_open()
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for rules in [
        vec![rule(true, "c 1:3 rx")],
        vec![rule(true, "p 1:3 r")],
        vec![rule(true, "c 99999999:3 r")],
        vec![rule(true, "c 10:* rw"), rule(false, "c 10:5 w")],
    ] {
        assert!(Filter::of(&rules).is_err(), "{rules:?}");
    }
}

/// Runs the few instructions the emitter uses.
fn interpret(program: &[u64], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    let kind = if kind == Kind::Block { 1u32 } else { 2 };
    let context = [kind | u32::from(access) << 16, major, minor];
    let (mut registers, mut at) = ([0u32; 10], 0usize);
    for _ in 0..program.len() {
        let [code, regs, o0, o1, k @ ..] = program[at].to_ne_bytes();
        let (dst, src) = (usize::from(regs & 15), usize::from(regs >> 4));
        let (offset, operand) = (i16::from_ne_bytes([o0, o1]), u32::from_ne_bytes(k));
        let mut jump = |taken: bool| {
            at += if taken {
                usize::try_from(offset).unwrap()
            } else {
                0
            }
        };
        match code {
            0x61 => registers[dst] = context[usize::try_from(offset).unwrap() / 4],
            0xb4 => registers[dst] = operand,
            0xbc => registers[dst] = registers[src],
            0x54 => registers[dst] &= operand,
            0x74 => registers[dst] >>= operand,
            0x16 => jump(registers[dst] == operand),
            0x56 => jump(registers[dst] != operand),
            0x1e => jump(registers[dst] == registers[src]),
            0x05 => jump(true),
            0x95 => return registers[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
        at += 1;
    }
    panic!("program does not end");
}

#[test]
fn the_program_decides_as_the_filter_does() {
    for filter in filters() {
        let program = program::emit(&filter);
        for kind in [Kind::Block, Kind::Char] {
            for major in [0, 1, 5, 7, 8, 10, 136, 4095] {
                for minor in [0, 1, 2, 3, 5, 9, 229, 1_048_575] {
                    for access in 1..=ALL {
                        assert_eq!(
                            interpret(&program, kind, major, minor, access),
                            filter.allows(kind, major, minor, access),
                            "{filter:?} {kind:?} {major}:{minor} {access}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_kernel_takes_every_program() {
    for filter in filters() {
        crate::sys::bpf::load_device_program(&program::emit(&filter)).unwrap();
    }
    let many = Filter {
        allow_by_default: false,
        exceptions: (0..MAX_EXCEPTIONS as u32)
            .map(|n| Exception {
                kind: Kind::Char,
                major: Some(n >> 8),
                minor: Some(n & 255),
                access: READ,
            })
            .collect(),
    };
    crate::sys::bpf::load_device_program(&program::emit(&many)).unwrap();
}

fn any_rule() -> impl Strategy<Value = LinuxDeviceCgroup> {
    let kind = prop::sample::select(vec![LinuxDeviceType::A, LinuxDeviceType::B, LinuxDeviceType::C]);
    let number = || prop::option::of(-1i64..3);
    let access = prop::sample::select(vec!["r", "w", "m", "rw", "rm", "wm", "rwm", "mr"]);
    (any::<bool>(), kind, number(), number(), access).prop_map(|(allow, kind, major, minor, access)| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(Some(kind))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    })
}

proptest! {
    /// Whatever rules are accepted, the last one that speaks of a request decides it.
    #[test]
    fn any_rules_mean_the_same_everywhere(rules in prop::collection::vec(any_rule(), 0..8)) {
        let Ok(filter) = Filter::of(&rules) else { return Ok(()) };
        let program = program::emit(&filter);
        for kind in [Kind::Block, Kind::Char] {
            for (major, minor) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 2), (7, 7)] {
                for access in 1..=ALL {
                    let allowed = filter.allows(kind, major, minor, access);
                    prop_assert_eq!(interpret(&program, kind, major, minor, access), allowed);
                }
                for access in [READ, WRITE] {
                    prop_assert_eq!(filter.allows(kind, major, minor, access), last_word(&rules, kind, major, minor, access));
                }
            }
        }
    }
}

/// What the rules say of one kind of access, by reading them from the end. None of the numbers is in the default list.
fn last_word(rules: &[LinuxDeviceCgroup], kind: Kind, major: u32, minor: u32, bit: u8) -> bool {
    let speaks = |rule: &&LinuxDeviceCgroup| {
        let typ = match rule.typ().unwrap() {
            LinuxDeviceType::A => true,
            LinuxDeviceType::B => kind == Kind::Block,
            _ => kind == Kind::Char,
        };
        let number = |of: Option<i64>, is: u32| of.is_none_or(|n| n < 0 || n == i64::from(is));
        let accessed = access(rule.access().as_deref().unwrap()).unwrap() & bit != 0;
        typ && accessed && number(rule.major(), major) && number(rule.minor(), minor)
    };
    rules.iter().rfind(speaks).is_some_and(LinuxDeviceCgroup::allow)
}
