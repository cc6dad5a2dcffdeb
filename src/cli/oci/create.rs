//! `create` and `run`: from a bundle to a process at its gate, or past it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, pidfd_send_signal, waitpid};

use crate::executor::{self, Extras, Launch, Progress, Stdio, gate, hooks};
use crate::spec::plan::{self, ContainerOptions, LaunchPlan, Rootfs, SeccompProgram};
use crate::types::error::Context;
use crate::types::{Error, Result};

use super::args::{Create, Run};
use super::bundle::{self, Bundle};
use super::log::{self, Log};
use super::state::{Home, State, Status, start_time};
use super::{cgroups, console, delete, foreground, start};

/// `create`.
pub(super) fn create(root: &Path, args: &Create, log: &Log) -> Result<()> {
    let inherited = inherited_fds(args.preserve_fds)?;
    let bundle = bundle::load(&args.bundle, log)?;
    console::check(is_terminal(&bundle.spec), true, args.console_socket.as_deref())?;
    let mut container = Container::new(root, args, bundle, inherited, log)?;
    container.launch_and(|c| {
        let (path, _directory) = c.home.gate()?;
        let socket = gate::create(&path)?;
        c.launch(Some(socket))?;
        c.until_ready()?;
        c.hand_over_console(args.console_socket.as_deref())?;
        c.write_pid_file()
    })
}

/// `run`. Returns the exit code of the container, or 0 if it is left alone.
pub(super) fn run(root: &Path, args: &Run, log: &Log) -> Result<i32> {
    let create = &args.create;
    let inherited = inherited_fds(create.preserve_fds)?;
    let bundle = bundle::load(&create.bundle, log)?;
    console::check(
        is_terminal(&bundle.spec),
        args.detach,
        create.console_socket.as_deref(),
    )?;
    let watch = match args.detach {
        true => None,
        false => Some(foreground::Watch::begin(!args.no_subreaper)?),
    };
    let mut container = Container::new(root, create, bundle, inherited, log)?;
    if watch.is_some() {
        foreground::take_size(&mut container.plan.process);
    }
    container.launch_and(|c| {
        c.launch(None)?;
        c.until_ready()?;
        c.hand_over_console(create.console_socket.as_deref())?;
        c.write_pid_file()?;
        c.open_gate()?;
        start::poststart(&c.bundle.spec, &c.state)
    })?;
    let Some(watch) = watch else {
        return Ok(0);
    };
    let console = container.console.take();
    let Some(launch) = container.launch.take() else {
        return Ok(0);
    };
    let code = watch.until_end(launch.pid, &launch.pidfd, console)?;
    if !args.keep {
        delete::remove(&container.home, &container.state, log)?;
    }
    Ok(code)
}

fn is_terminal(spec: &Spec) -> bool {
    spec.process()
        .as_ref()
        .and_then(|p| p.terminal())
        .unwrap_or(false)
}

/// How many descriptors from 3 on the container inherits: those asked for and those of socket activation.
pub(super) fn inherited_fds(asked: u16) -> Result<u16> {
    let activated: u16 = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let count = asked.saturating_add(activated);
    for n in 3..3 + i32::from(count) {
        // Before anything else is opened, so that it is the caller's.
        if fs::symlink_metadata(format!("/proc/self/fd/{n}")).is_err() {
            return Err(Error::invalid(format!(
                "descriptor {n} is to be passed on but is not open"
            )));
        }
    }
    Ok(count)
}

/// The caller's own streams, for the container.
pub(super) fn own_stdio() -> Result<Stdio> {
    let dup = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(Some).context("duplicate stream");
    Ok(Stdio {
        stdin: dup(std::io::stdin().as_fd())?,
        stdout: dup(std::io::stdout().as_fd())?,
        stderr: dup(std::io::stderr().as_fd())?,
    })
}

/// Waits until `launch` has something to say.
pub(super) fn wait_for(launch: &mut Launch) -> Result<Progress> {
    loop {
        match launch.advance()? {
            Progress::Pending => {}
            progress => return Ok(progress),
        }
        match poll(
            &mut [PollFd::from_borrowed_fd(launch.sync_fd(), PollFlags::IN)],
            None,
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::internal(format!("wait for the container: {e}"))),
        }
    }
}

/// Writes a process id the way callers expect: complete or not at all.
pub(super) fn write_pid(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let what = || format!("write pid file {}", path.display());
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(|| Error::invalid(what()))?);
    let temporary = path.with_file_name(name);
    fs::write(&temporary, pid.to_string()).with_context(what)?;
    fs::rename(&temporary, path).with_context(what)
}

/// The compiled form of the spec's seccomp profile.
pub(super) fn seccomp(spec: &Spec) -> Result<Option<SeccompProgram>> {
    let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
        return Ok(None);
    };
    let program = crate::seccomp::compiled(profile)?;
    Ok(Some(SeccompProgram {
        filter: program.filter.clone(),
        flags: program.flags,
    }))
}

/// A container being made.
struct Container<'a> {
    home: Home,
    state: State,
    bundle: Bundle,
    plan: LaunchPlan,
    inherited: u16,
    pid_file: Option<PathBuf>,
    launch: Option<Launch>,
    console: Option<OwnedFd>,
    log: &'a Log,
}

impl<'a> Container<'a> {
    fn new(root: &Path, args: &Create, bundle: Bundle, inherited: u16, log: &'a Log) -> Result<Self> {
        let state = State {
            oci_version: bundle.spec.version().clone(),
            id: args.id.clone(),
            pid: 0,
            pid_start: 0,
            bundle: bundle.path.clone(),
            rootfs: bundle.rootfs.clone(),
            created: log::now(),
            annotations: bundle
                .spec
                .annotations()
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            cgroup: None,
        };
        let plan = plan_for(&bundle, args, &state, inherited)?;
        Ok(Self {
            home: Home::create(root, &args.id)?,
            state,
            bundle,
            plan,
            inherited,
            pid_file: args.pid_file.clone(),
            launch: None,
            console: None,
            log,
        })
    }

    /// Runs `steps`; if one fails, nothing of the container is left.
    fn launch_and(&mut self, steps: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = steps(self);
        if result.is_err() {
            self.clean_up();
        }
        result
    }

    fn clean_up(&mut self) {
        if let Some(launch) = self.launch.take() {
            let _ = pidfd_send_signal(&launch.pidfd, Signal::KILL);
            if let Some(pid) = Pid::from_raw(launch.pid) {
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
        }
        if let Err(e) = delete::remove(&self.home, &self.state, self.log) {
            self.log.warn(&format!("clean up: {e}"));
        }
    }

    fn launch(&mut self, gate: Option<OwnedFd>) -> Result<()> {
        self.home.save_spec(&self.bundle.spec)?;
        self.home.save(&self.state)?;
        self.state.cgroup = cgroups::create(&self.bundle.spec, &self.state.id, self.log)?;
        self.plan.cgroup.clone_from(&self.state.cgroup);
        let stdio = match self.plan.process.terminal {
            true => Stdio::default(),
            false => own_stdio()?,
        };
        let extras = Extras {
            gate,
            inherited_fds: self.inherited,
        };
        let launch = executor::launch_with(&self.plan, stdio, extras)?;
        self.state.pid = launch.pid;
        self.state.pid_start = start_time(launch.pid).unwrap_or_default();
        self.launch = Some(launch);
        self.home.save(&self.state)
    }

    fn until_ready(&mut self) -> Result<()> {
        loop {
            let Some(launch) = &mut self.launch else {
                return Err(Error::internal("the container was not launched"));
            };
            match wait_for(launch)? {
                Progress::BeforePivot => {
                    self.runtime_hooks()?;
                    if let Some(launch) = &mut self.launch {
                        launch.resume()?;
                    }
                }
                Progress::Ready { console, notes } => {
                    self.console = console;
                    notes.iter().for_each(|n| self.log.warn(n));
                    return Ok(());
                }
                Progress::Pending | Progress::Running => {}
            }
        }
    }

    #[allow(deprecated)]
    fn runtime_hooks(&self) -> Result<()> {
        let Some(hooks) = self.bundle.spec.hooks() else {
            return Ok(());
        };
        let state = self.state.to_oci(Status::Creating);
        for (stage, list) in [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
        ] {
            hooks::run(stage, &plan::hooks(list.as_deref().unwrap_or_default())?, &state)?;
        }
        Ok(())
    }

    fn hand_over_console(&mut self, socket: Option<&Path>) -> Result<()> {
        match (socket, self.console.take()) {
            (Some(path), Some(master)) => console::send(path, master.as_fd()),
            (_, console) => {
                self.console = console;
                Ok(())
            }
        }
    }

    fn write_pid_file(&self) -> Result<()> {
        write_pid(self.pid_file.as_deref(), self.state.pid)
    }

    fn open_gate(&mut self) -> Result<()> {
        let Some(launch) = &mut self.launch else {
            return Err(Error::internal("the container was not launched"));
        };
        launch.open_gate()?;
        while !matches!(wait_for(launch)?, Progress::Running) {}
        Ok(())
    }
}

fn plan_for(bundle: &Bundle, args: &Create, state: &State, inherited: u16) -> Result<LaunchPlan> {
    let hooks = bundle.spec.hooks().as_ref();
    #[allow(deprecated)]
    let pause = hooks.is_some_and(|h| {
        [h.prestart(), h.create_runtime()]
            .iter()
            .any(|list| list.as_ref().is_some_and(|l| !l.is_empty()))
    });
    let options = ContainerOptions {
        rootfs: Rootfs::Directory(bundle.rootfs.clone()),
        mount_point: bundle.rootfs.clone(),
        seccomp: seccomp(&bundle.spec)?,
        no_pivot: args.no_pivot,
        keep_keyring: args.no_new_keyring,
        check_command_early: true,
        pause_before_pivot: pause,
        ..ContainerOptions::default()
    };
    let mut plan = plan::container(&bundle.spec, &options)?;
    plan.hooks.state = Some(state.to_oci(Status::Creating));
    if inherited > 0 && std::env::var_os("LISTEN_FDS").is_some() {
        plan.process.env.extend(socket_activation());
    }
    Ok(plan)
}

/// What a program that is started by socket activation looks for.
fn socket_activation() -> Vec<String> {
    ["LISTEN_FDS", "LISTEN_FDNAMES"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
        .chain(["LISTEN_PID=1".to_owned()])
        .collect()
}
