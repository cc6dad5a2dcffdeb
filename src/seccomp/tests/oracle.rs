//! Random profiles, evaluated by the compiled program and by a naive reading of the rules: same answer.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
    LinuxSyscall,
};
use proptest::prelude::*;

use super::super::bpf::{Data, run};
use super::super::{Abi, compile_for, tables};

const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = 0x5_0026;

/// What a profile means for the calls of one ABI, read rule by rule without any thought of speed.
struct Naive<'a> {
    profile: &'a LinuxSeccomp,
    abi: Abi,
    default: u32,
    newest: Option<u32>,
}

impl<'a> Naive<'a> {
    fn new(profile: &'a LinuxSeccomp, abi: Abi) -> Self {
        let strict = !matches!(
            profile.default_action(),
            Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
        );
        let named = profile.syscalls().iter().flatten().flat_map(|r| r.names());
        let numbers = named.filter_map(|n| tables::number(abi, n));
        let newest = numbers.filter(|nr| abi != Abi::Arm || *nr < 0xf_0000).max();
        Self {
            profile,
            abi,
            default: value_of(profile.default_action(), profile.default_errno_ret()),
            newest: newest.filter(|_| strict),
        }
    }

    /// The rules that name `nr`: action and conditions.
    fn rules(&self, nr: u32) -> Vec<(u32, &'a [LinuxSeccompArg])> {
        let named = |rule: &&LinuxSyscall| {
            let mut names = rule.names().iter();
            names.any(|n| tables::number(self.abi, n) == Some(nr))
        };
        let rules = self.profile.syscalls().iter().flatten().filter(named);
        rules
            .map(|r| {
                (
                    value_of(r.action(), r.errno_ret()),
                    r.args().as_deref().unwrap_or(&[]),
                )
            })
            .filter(|(ret, _)| *ret != self.default)
            .collect()
    }

    fn verdict(&self, rules: &[(u32, &[LinuxSeccompArg])], data: &Data) -> u32 {
        let private = self.abi == Abi::Arm && data.nr >= 0xf_0000;
        if !private && self.newest.is_some_and(|newest| data.nr > newest) {
            return ENOSYS;
        }
        if let Some((ret, _)) = rules.iter().find(|(_, args)| args.is_empty()) {
            return *ret;
        }
        let held = rules.iter().filter(|(_, args)| self.applies(args, data));
        // min_by_key returns the first of equals.
        held.min_by_key(|(ret, _)| (ret & 0xffff_0000).cast_signed())
            .map_or(self.default, |(ret, _)| *ret)
    }

    fn applies(&self, args: &[LinuxSeccompArg], data: &Data) -> bool {
        let mut indices: Vec<usize> = args.iter().map(LinuxSeccompArg::index).collect();
        indices.sort_unstable();
        indices.dedup();
        let holds = |a: &LinuxSeccompArg| self.holds(a, data);
        if indices.len() < args.len() {
            args.iter().any(holds)
        } else {
            args.iter().all(holds)
        }
    }

    fn holds(&self, a: &LinuxSeccompArg, data: &Data) -> bool {
        let width = match self.abi {
            Abi::X86_64 | Abi::Aarch64 => u64::MAX,
            _ => 0xffff_ffff,
        };
        let (arg, value) = (data.args[a.index()] & width, a.value() & width);
        match a.op() {
            Op::ScmpCmpNe => arg != value,
            Op::ScmpCmpLt => arg < value,
            Op::ScmpCmpLe => arg <= value,
            Op::ScmpCmpEq => arg == value,
            Op::ScmpCmpGe => arg >= value,
            Op::ScmpCmpGt => arg > value,
            Op::ScmpCmpMaskedEq => arg & value == a.value_two().unwrap_or(0) & value,
        }
    }
}

/// The kernel's value for an action, from another source than the compiler's own.
fn value_of(action: Action, errno: Option<u32>) -> u32 {
    action.as_u32(errno)
}

fn action() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop_oneof![
        4 => Just((Action::ScmpActAllow, None)),
        1 => Just((Action::ScmpActErrno, None)),
        1 => (0..200u32).prop_map(|n| (Action::ScmpActErrno, Some(n))),
        1 => Just((Action::ScmpActKillProcess, None)),
        1 => Just((Action::ScmpActKillThread, None)),
        1 => Just((Action::ScmpActKill, None)),
        1 => Just((Action::ScmpActTrap, None)),
        1 => Just((Action::ScmpActLog, None)),
        1 => (0..200u32).prop_map(|n| (Action::ScmpActTrace, Some(n))),
    ]
}

/// Values close to each other and to the borders of a half, so that conditions overlap and inputs hit them.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..12u64,
        2 => (0..12u64).prop_map(|n| (n << 32) | 3),
        2 => (0..3u64).prop_map(|n| 0xffff_fffe + n),
        1 => (0..3u64).prop_map(|n| u64::MAX - n),
        1 => any::<u64>(),
    ]
}

fn arg() -> impl Strategy<Value = LinuxSeccompArg> {
    let op = prop_oneof![
        Just(Op::ScmpCmpNe),
        Just(Op::ScmpCmpLt),
        Just(Op::ScmpCmpLe),
        Just(Op::ScmpCmpEq),
        Just(Op::ScmpCmpGe),
        Just(Op::ScmpCmpGt),
        Just(Op::ScmpCmpMaskedEq),
    ];
    (0..3usize, value(), value(), op).prop_map(|(index, value, two, op)| {
        let json = serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": op});
        serde_json::from_value(json).unwrap()
    })
}

/// Few names, so that rules meet; some are far from their neighbours, one is on ARM only, one nowhere.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "read",
        "write",
        "open",
        "close",
        "stat",
        "socket",
        "bind",
        "clone",
        "personality",
        "ioctl",
        "futex",
        "mseal",
        "clone3",
        "set_tls",
        "umount",
        "no_such_call",
    ])
    .prop_map(str::to_owned)
}

fn syscall() -> impl Strategy<Value = LinuxSyscall> {
    let args = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec(arg(), 1..2),
        2 => prop::collection::vec(arg(), 2..4),
    ];
    (prop::collection::vec(name(), 1..5), action(), args).prop_map(|(names, (action, errno), args)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(names)
            .set_action(action)
            .set_errno_ret(errno)
            .set_args(Some(args));
        rule
    })
}

fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let architectures = prop::collection::vec(
        prop::sample::select(vec![
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX86,
            Arch::ScmpArchX32,
            Arch::ScmpArchNative,
            Arch::ScmpArchAarch64,
            Arch::ScmpArchArm,
            Arch::ScmpArchS390x,
        ]),
        0..5,
    );
    (action(), architectures, prop::collection::vec(syscall(), 0..12)).prop_map(
        |((action, errno), architectures, syscalls)| {
            let mut profile = LinuxSeccomp::default();
            profile
                .set_default_action(action)
                .set_default_errno_ret(errno)
                .set_architectures(Some(architectures))
                .set_syscalls(Some(syscalls));
            profile
        },
    )
}

/// Numbers that matter: those named, their neighbours, the borders.
fn numbers(abi: Abi, profile: &LinuxSeccomp) -> Vec<u32> {
    let named = profile.syscalls().iter().flatten().flat_map(|s| s.names());
    let base = if abi == Abi::X32 { 0x4000_0000 } else { 0 };
    let mut all: Vec<u32> = named
        .filter_map(|n| tables::number(abi, n))
        .flat_map(|n| [n.saturating_sub(1).max(base), n, n + 1])
        .chain([base, base + 10_000])
        .collect();
    all.sort_unstable();
    all.dedup();
    match abi {
        Abi::X86_64 => all.push(0x3fff_ffff),
        Abi::X32 => all.push(u32::MAX),
        _ => all.extend([0xf_0000, 0x3fff_ffff, 0x4000_0000, u32::MAX]),
    }
    all
}

/// The two doors of 32-bit x86 have rules of their own, tested elsewhere.
fn is_door(abi: Abi, nr: u32) -> bool {
    abi == Abi::X86 && (nr == 102 || nr == 117)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn program_means_what_the_profile_says(
        profile in profile(),
        native in prop::sample::select(vec![Abi::X86_64, Abi::Aarch64]),
        inputs in prop::collection::vec([value(), value(), value()], 12),
    ) {
        let program = compile_for(native, &profile).unwrap().0.filter;
        let listed = |abi: Abi| {
            abi == native || profile.architectures().iter().flatten().any(|a| *a == abi.to_oci())
        };
        for abi in std::iter::once(native).chain(native.companions().iter().copied()) {
            let naive = Naive::new(&profile, abi);
            for nr in numbers(abi, &profile) {
                if is_door(abi, nr) {
                    continue;
                }
                let rules = naive.rules(nr);
                for [a, b, c] in &inputs {
                    let data = Data { nr, arch: abi.audit(), args: [*a, *b, *c, 0, 0, 0] };
                    let expected = match abi {
                        // Without x32 in the profile, -1 is x86-64's, and no call.
                        Abi::X32 if nr == u32::MAX && !listed(abi) => naive.default,
                        _ if !listed(abi) => KILL_PROCESS,
                        _ => naive.verdict(&rules, &data),
                    };
                    let actual = run(&program, &data).unwrap();
                    prop_assert_eq!(actual, expected, "{:?} {:?}", abi, data);
                }
            }
        }
        let foreign = Data::call(0x8000_0016, 0);
        prop_assert_eq!(run(&program, &foreign).unwrap(), KILL_PROCESS);
    }

    /// Whatever the profile, the program is one the kernel accepts: forward jumps inside it, a return at the end.
    #[test]
    fn programs_are_well_formed(profile in profile()) {
        let program = compile_for(Abi::X86_64, &profile).unwrap().0.filter;
        prop_assert!(!program.is_empty() && program.len() <= 4096);
        let last = program.last().unwrap().to_ne_bytes();
        prop_assert_eq!(u16::from_ne_bytes([last[0], last[1]]), 0x06);
    }
}
