//! CRI's signal enum and signal numbers.

use crate::cri::proto::Signal;

/// In the order of CRI's enum from SIGABRT (1) to SIGXFSZ (33); SIGRTMIN (34) follows in steps of one.
const NUMBERS: [i32; 33] = [
    libc::SIGABRT,
    libc::SIGALRM,
    libc::SIGBUS,
    libc::SIGCHLD,
    libc::SIGCHLD,
    libc::SIGCONT,
    libc::SIGFPE,
    libc::SIGHUP,
    libc::SIGILL,
    libc::SIGINT,
    libc::SIGIO,
    libc::SIGABRT,
    libc::SIGKILL,
    libc::SIGPIPE,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGPWR,
    libc::SIGQUIT,
    libc::SIGSEGV,
    libc::SIGSTKFLT,
    libc::SIGSTOP,
    libc::SIGSYS,
    libc::SIGTERM,
    libc::SIGTRAP,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGVTALRM,
    libc::SIGWINCH,
    libc::SIGXCPU,
];

/// First real-time signal as programs count them (glibc keeps 32 and 33 for itself).
const RTMIN: i32 = 34;

/// The signal's number; 0 for "the runtime's default".
pub fn number(signal: Signal) -> i32 {
    match signal as i32 {
        0 => 0,
        n @ 1..=33 => NUMBERS[n as usize - 1],
        34 => libc::SIGXFSZ,
        n => n - 35 + RTMIN,
    }
}

/// The enum for a number; the default where the enum has no such signal.
pub fn signal(number: i32) -> Signal {
    if number == libc::SIGXFSZ {
        return Signal::Sigxfsz;
    }
    let position = NUMBERS.iter().position(|n| *n == number).map(|i| i as i32 + 1);
    let value = position.or_else(|| (RTMIN..=64).contains(&number).then_some(number - RTMIN + 35));
    value
        .and_then(|v| Signal::try_from(v).ok())
        .unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_linux() {
        for (s, n) in [
            (Signal::RuntimeDefault, 0),
            (Signal::Sigabrt, 6),
            (Signal::Sigkill, 9),
            (Signal::Sigterm, 15),
            (Signal::Sigusr1, 10),
            (Signal::Sigxcpu, 24),
            (Signal::Sigxfsz, 25),
            (Signal::Sigrtmin, 34),
            (Signal::Sigrtmax, 64),
        ] {
            assert_eq!(number(s), n, "{s:?}");
            assert_eq!(number(signal(n)), n, "{s:?}");
        }
    }
}
