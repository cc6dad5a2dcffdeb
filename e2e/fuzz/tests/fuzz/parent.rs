//! Starts a process for each target and watches it.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use husk_fuzz::Target;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{Effort, corpus, now};

/// When an input counts as one that is never done.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// It may take so much of a processor.
    cpu: Duration,
    /// It may stand still so long, which finds deadlocks.
    wait: Duration,
    /// Say nothing of what is found, and keep nothing of it.
    quiet: bool,
}

/// Far above what any input takes: this finds loops, it does not measure.
pub const PATIENT: Watch = Watch {
    cpu: Duration::from_secs(30),
    wait: Duration::from_secs(300),
    quiet: false,
};

/// For targets that are known never to be done.
pub const PROOF: Watch = Watch {
    cpu: Duration::from_millis(500),
    wait: Duration::from_secs(300),
    quiet: true,
};

/// Address space of a target. More is refused, and the process aborts.
const MAX_SPACE: u64 = 8 << 30;
const POLL: Duration = Duration::from_millis(50);

/// Runs all, a few at a time; the names of those that something was found with.
pub fn run_all(targets: Vec<&'static Target>, effort: &Effort, watch: Watch) -> Vec<&'static str> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    // Inherited by the processes; this one needs little.
    setrlimit(Resource::RLIMIT_AS, soft.min(MAX_SPACE), hard).unwrap();
    let at_once = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let mut waiting = targets.into_iter();
    let mut running: Vec<Watched> = Vec::new();
    let mut failed = Vec::new();
    loop {
        while running.len() < at_once
            && let Some(target) = waiting.next()
        {
            running.push(Watched::start(target, effort, watch));
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(POLL);
        running.retain_mut(|watched| match watched.look() {
            None => true,
            Some(fine) => {
                if !fine {
                    failed.push(watched.target.name);
                }
                false
            }
        });
    }
    failed
}

struct Watched {
    target: &'static Target,
    child: Child,
    state: File,
    watch: Watch,
    /// The input at which it was seen last, when, and how much processor time it had had by then.
    last: (u64, Instant, Duration),
}

impl Watched {
    fn start(target: &'static Target, effort: &Effort, watch: Watch) -> Self {
        let path = corpus::scratch().join(format!("{}.{}.now", target.name, std::process::id()));
        let state = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--runs",
            &effort.runs.to_string(),
            "--seed",
            &effort.seed.to_string(),
        ]);
        if let Some(time) = effort.time {
            command.args(["--seconds", &time.as_secs().to_string()]);
        }
        // The child gets the file as its standard input, so that it needs no name any more.
        if watch.quiet {
            command.arg("--quiet").stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = command
            .arg("--child")
            .arg(target.name)
            .stdin(state.try_clone().unwrap())
            .spawn()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        Self {
            target,
            child,
            state,
            watch,
            last: (0, Instant::now(), Duration::ZERO),
        }
    }

    /// `None` while it runs, then whether all was well.
    fn look(&mut self) -> Option<bool> {
        if let Some(status) = self.child.try_wait().unwrap() {
            if let Some(signal) = status.signal() {
                self.report(&format!(
                    "the process was killed by signal {signal}: its memory or its stack ran out"
                ));
            }
            return Some(status.success());
        }
        let (count, used) = (now::count(&self.state), cpu_time(self.child.id()));
        let (last, when, before) = self.last;
        if count != last {
            self.last = (count, Instant::now(), used);
        } else if used.saturating_sub(before) > self.watch.cpu || when.elapsed() > self.watch.wait {
            self.report(&format!(
                "no answer after {:?} of processor time and {:?} in all",
                used.saturating_sub(before),
                when.elapsed()
            ));
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            return Some(false);
        }
        None
    }

    fn report(&self, what: &str) {
        if self.watch.quiet {
            return;
        }
        let name = self.target.name;
        match now::input(&self.state) {
            Some(input) => {
                let path = corpus::keep(self.target, &input);
                println!(
                    "FOUND by {name}: {what}\n  replay: cargo test -p husk-fuzz -- --replay {name} {}",
                    path.display()
                );
            }
            None => println!("FOUND by {name}: {what}, before the first input"),
        }
    }
}

/// Processor time of a process so far.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks: u64 = stat
        .rsplit_once(") ")
        .map(|(_, rest)| {
            rest.split(' ')
                .skip(11)
                .take(2)
                .filter_map(|t| t.parse::<u64>().ok())
                .sum()
        })
        .unwrap_or(0);
    // USER_HZ is 100 wherever Linux runs.
    Duration::from_millis(ticks * 10)
}
