//! `start`: opening the gate of a created container.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::executor::{gate, hooks};
use crate::spec::plan;
use crate::types::{Error, Result};

use super::log::Log;
use super::state::{Home, State, Status};

/// Lets the process of container `id` run its program, and waits until it does.
pub(super) fn start(root: &Path, id: &str, log: &Log) -> Result<()> {
    let home = Home::find(root, id)?;
    let state = home.load()?;
    let status = home.status(&state);
    if status != Status::Created {
        return Err(Error::precondition(format!(
            "container {id:?} is {}: only a created container can be started",
            status.as_str()
        )));
    }
    let (path, _directory) = home.gate()?;
    let opened = gate::open(&path);
    home.remove_gate();
    opened?;
    let spec = home.load_spec()?;
    // It runs already: a hook that fails is told, but does not end it.
    if let Err(e) = poststart(&spec, &state) {
        log.warn(&e.to_string());
    }
    Ok(())
}

/// Runs the poststart hooks.
pub(super) fn poststart(spec: &Spec, state: &State) -> Result<()> {
    let Some(list) = spec.hooks().as_ref().and_then(|h| h.poststart().as_ref()) else {
        return Ok(());
    };
    Ok(hooks::run(
        "poststart",
        &plan::hooks(list)?,
        &state.to_oci(Status::Running),
    )?)
}
