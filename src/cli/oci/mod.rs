//! `husk oci`: the executor behind runc's command line, so that other people's OCI suites and tools can drive it.
//!
//! Enters at an OCI bundle and goes spec -> plan -> executor like every container of husk, but without daemon and
//! supervisor: the state of a container is a directory below `--root`, and between `create` and `start` its process
//! waits at a gate that is a socket in there. Single-threaded, because the executor's caller has to be.

mod args;
mod bundle;
mod cgroups;
mod console;
mod create;
mod delete;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod log;
mod start;
mod state;

use std::ffi::OsString;

use clap::Parser;

use crate::types::Result;

pub use args::Oci;
use args::Verb;

/// Runs `husk oci` with all arguments after these two words; the result is the exit code of the process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let name = std::iter::once(OsString::from("husk oci"));
    match Oci::try_parse_from(name.chain(args)) {
        Ok(oci) => run(oci),
        Err(e) => {
            let _ = e.print();
            // runc and shells take 1 for all failures; clap's own 2 means nothing to their callers.
            i32::from(e.use_stderr())
        }
    }
}

/// Runs a parsed command line; the result is the exit code of the process.
pub fn run(oci: Oci) -> i32 {
    let log = log::Log::new(&oci);
    match dispatch(&oci, &log) {
        Ok(code) => code,
        Err(e) => {
            log.error(&e.to_string());
            1
        }
    }
}

fn dispatch(oci: &Oci, log: &log::Log) -> Result<i32> {
    let root = oci.root.as_path();
    match &oci.verb {
        Verb::Create(a) => create::create(root, a, log).map(|()| 0),
        Verb::Run(a) => create::run(root, a, log),
        Verb::Start(a) => start::start(root, &a.id, log).map(|()| 0),
        Verb::Exec(a) => exec::exec(root, a, log),
        Verb::State(a) => list::state(root, &a.id).map(|()| 0),
        Verb::List(a) => list::list(root, a, log).map(|()| 0),
        Verb::Kill(a) => kill::kill(root, a).map(|()| 0),
        Verb::Delete(a) => delete::delete(root, &a.id, a.force, log).map(|()| 0),
        Verb::Features => features::print().map(|()| 0),
    }
}
