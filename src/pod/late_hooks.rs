//! OCI hooks that run on the node once a container was started, and once it is gone. Those up to the start of its program
//! belong to the launch plan, and the executor and the supervisor run them.

use oci_spec::runtime::{Hook, Hooks, Spec};
use serde_json::json;
use tracing::warn;

use crate::executor::hooks;
use crate::spec::plan;
use crate::types::error::{Error, Result};

use super::container::Container;
use super::{Runtime, blocking};

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was started.
    Started,
    /// It is being removed.
    Removed,
}

impl Stage {
    /// The state that hooks are told.
    fn status(self) -> &'static str {
        match self {
            Self::Started => "running",
            Self::Removed => "stopped",
        }
    }

    fn list(self, hooks: &Hooks) -> (&'static str, Vec<Hook>) {
        match self {
            Self::Started => ("poststart", hooks.poststart().clone().unwrap_or_default()),
            Self::Removed => ("poststop", hooks.poststop().clone().unwrap_or_default()),
        }
    }
}

/// Whether a spec has hooks of any of these stages.
pub(super) fn any(spec: &Spec) -> bool {
    let has = |stage: Stage, hooks: &Hooks| !stage.list(hooks).1.is_empty();
    let hooks = spec.hooks().as_ref();
    hooks.is_some_and(|h| has(Stage::Started, h) || has(Stage::Removed, h))
}

impl Runtime {
    /// Runs the hooks of a stage. One that fails changes nothing but the log.
    pub(super) async fn run_late_hooks(&self, stage: Stage, container: &Container) {
        // An OCI runtime runs them itself.
        if container.facts.runtime.is_some() {
            return;
        }
        if !container.facts.late_hooks {
            return;
        }
        if let Err(error) = self.late_hooks(stage, container).await {
            warn!(container = ?container.id(), ?stage, %error, "a hook failed");
        }
    }

    async fn late_hooks(&self, stage: Stage, container: &Container) -> Result<()> {
        let spec = self.container_spec(container).await?;
        let Some(all) = spec.hooks() else {
            return Ok(());
        };
        let (name, list) = stage.list(all);
        let facts = &container.facts;
        let state = json!({
            "ociVersion": spec.version(),
            "id": facts.id,
            "bundle": self.paths.container_run(&facts.pod, &facts.id),
            "annotations": spec.annotations(),
        });
        let state = hooks::with_status(Some(&state), stage.status(), container.status().pid);
        for mut hook in plan::hooks(&list)? {
            hook.timeout.get_or_insert(plan::HOOK_PATIENCE);
            let state = state.clone();
            let ran = blocking(move || hooks::run(name, &[hook], &state).map_err(Error::from));
            if let Err(error) = ran.await {
                warn!(container = ?container.id(), %error, "a hook failed");
            }
        }
        Ok(())
    }
}
