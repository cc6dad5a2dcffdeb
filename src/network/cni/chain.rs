//! Runs the chain of plugins of a network: ADD in order, DEL in reverse, STATUS and GC where they exist.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::args;
use super::conf::{NetworkList, Plugin, find_binary};
use super::exec::{self, Failure, Run, Target, Verb};
use super::result;
use super::version::Version;
use crate::types::{Error, Kind};

/// CNI error code for an environment that makes no sense, which is how old plugins answer a verb they do not know.
const BAD_ENVIRONMENT: u64 = 4;
/// CNI error code "try again later".
const TRY_LATER: u64 = 11;

/// What all plugins of a chain are told.
pub struct Chain<'a> {
    /// The network.
    pub list: &'a NetworkList,
    /// Where plugins are.
    pub bin_dirs: &'a [PathBuf],
}

/// The pod a chain is run for.
pub struct Attach<'a> {
    /// Container id.
    pub container: &'a str,
    /// Path of the namespace.
    pub netns: &'a Path,
    /// Interface name in the pod.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a [(String, String)],
    /// Values for capabilities.
    pub capability_args: &'a BTreeMap<String, Value>,
}

/// A plugin failed.
#[derive(Debug)]
pub struct ChainError {
    plugin: String,
    network: String,
    file: PathBuf,
    verb: Verb,
    /// Why.
    pub failure: Failure,
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plugin,
            network,
            file,
            verb,
            failure,
        } = self;
        write!(
            f,
            "CNI plugin {plugin:?} failed {verb} for network {network:?} ({}): {failure}",
            file.display()
        )
    }
}

impl std::error::Error for ChainError {}

impl From<ChainError> for Error {
    fn from(error: ChainError) -> Self {
        let kind = match &error.failure {
            Failure::TimedOut { .. } => Kind::DeadlineExceeded,
            failure if failure.code() == Some(TRY_LATER) => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl Chain<'_> {
    /// Attaches a pod: each plugin in order, each given the result of the one before. Returns the last result.
    ///
    /// # Errors
    /// The first plugin that fails, or the time `limit` for all of them.
    pub async fn add(&self, pod: &Attach<'_>, limit: Duration) -> Result<Value, ChainError> {
        let deadline = Instant::now() + limit;
        let mut result = Value::Null;
        for plugin in &self.list.plugins {
            let stdin = self.stdin(plugin, Some(&result), pod.capability_args, &[]);
            let left = deadline.saturating_duration_since(Instant::now());
            let printed = self.run(Verb::Add, plugin, Some(pod), &stdin, left).await?;
            result = result::accept(&printed, self.list.version)
                .map_err(|problem| self.error(Verb::Add, plugin, Failure::BadResult(problem)))?;
        }
        Ok(result)
    }

    /// Detaches a pod: each plugin in reverse order, whether or not others fail. `limit` is for all of them.
    ///
    /// Returns all errors.
    pub async fn del(&self, pod: &Attach<'_>, result: Option<&Value>, limit: Duration) -> Vec<ChainError> {
        // A share for each, so that one that stalls cannot keep the others from releasing what they hold.
        let share = limit / u32::try_from(self.list.plugins.len()).unwrap_or(u32::MAX).max(1);
        let mut errors = Vec::new();
        for plugin in self.list.plugins.iter().rev() {
            let stdin = self.stdin(plugin, result, pod.capability_args, &[]);
            errors.extend(self.run(Verb::Del, plugin, Some(pod), &stdin, share).await.err());
        }
        errors
    }

    /// Checks that all plugins know the version they are to be called with. One that gives no clear answer is given the
    /// benefit of the doubt.
    ///
    /// # Errors
    /// The first plugin that does not.
    pub async fn check_versions(&self, limit: Duration) -> Result<(), ChainError> {
        let wanted = self.list.version.to_string();
        let stdin = json!({ "cniVersion": wanted }).to_string();
        for plugin in &self.list.plugins {
            let printed = self
                .run(Verb::Version, plugin, None, stdin.as_bytes(), limit)
                .await
                .unwrap_or_default();
            let answer: Value = serde_json::from_slice(&printed).unwrap_or_default();
            let Some(known) = answer.get("supportedVersions").and_then(Value::as_array) else {
                continue;
            };
            if !known.iter().any(|version| version.as_str() == Some(&wanted)) {
                let known: Vec<&str> = known.iter().filter_map(Value::as_str).take(16).collect();
                let problem = format!(
                    "the configuration wants CNI {wanted}, and it only knows {}",
                    known.join(", ")
                );
                return Err(self.error(Verb::Version, plugin, Failure::BadResult(problem)));
            }
        }
        Ok(())
    }

    /// Asks all plugins whether they are ready. Networks older than 1.1 have no such question: `Ok`.
    ///
    /// # Errors
    /// The first plugin that is not.
    pub async fn status(&self, limit: Duration) -> Result<(), ChainError> {
        if self.list.version < Version::V1_1_0 {
            return Ok(());
        }
        for plugin in &self.list.plugins {
            let stdin = self.stdin(plugin, None, &BTreeMap::new(), &[]);
            match self.run(Verb::Status, plugin, None, &stdin, limit).await {
                Err(error) if !is_unknown_verb(&error.failure) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells all plugins which attachments are in use; they remove all others of this network. Nothing happens for
    /// networks older than 1.1 or that forbid it.
    ///
    /// Returns all errors.
    pub async fn gc(&self, in_use: &[(String, String)], limit: Duration) -> Vec<ChainError> {
        if self.list.version < Version::V1_1_0 || self.list.disable_gc {
            return Vec::new();
        }
        let in_use: Vec<Value> = in_use
            .iter()
            .map(|(id, ifname)| json!({ "containerID": id, "ifname": ifname }))
            .collect();
        let extra = [
            ("cni.dev/valid-attachments", json!(in_use)),
            ("cni.dev/attachments", json!(in_use)),
        ];
        let mut errors = Vec::new();
        for plugin in &self.list.plugins {
            let stdin = self.stdin(plugin, None, &BTreeMap::new(), &extra);
            let run = self.run(Verb::Gc, plugin, None, &stdin, limit).await;
            errors.extend(run.err().filter(|error| !is_unknown_verb(&error.failure)));
        }
        errors
    }

    /// The configuration of one plugin as it goes to its standard input.
    fn stdin(
        &self,
        plugin: &Plugin,
        previous: Option<&Value>,
        capability_args: &BTreeMap<String, Value>,
        extra: &[(&str, Value)],
    ) -> Vec<u8> {
        let mut config = plugin.raw.clone();
        config.remove("capabilities");
        config.insert("cniVersion".into(), self.list.version.to_string().into());
        config.insert("name".into(), self.list.name.clone().into());
        let declared: Map<String, Value> = capability_args
            .iter()
            .filter(|(name, _)| plugin.capabilities.contains(*name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !declared.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(declared));
        }
        if let Some(previous) = previous.filter(|p| !p.is_null())
            && self.list.version >= Version::V0_3_0
        {
            config.insert("prevResult".into(), previous.clone());
        }
        for (key, value) in extra {
            config.insert((*key).to_owned(), value.clone());
        }
        Value::Object(config).to_string().into_bytes()
    }

    async fn run(
        &self,
        verb: Verb,
        plugin: &Plugin,
        pod: Option<&Attach<'_>>,
        stdin: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, ChainError> {
        let failed = |failure| self.error(verb, plugin, failure);
        let binary = find_binary(&plugin.kind, self.bin_dirs).map_err(|e| failed(Failure::Missing(e)))?;
        let netns = pod.map(|pod| pod.netns.display().to_string()).unwrap_or_default();
        let args = pod.map(|pod| args::join(pod.args)).unwrap_or_default();
        let attachment = pod.map(|pod| Target {
            container: pod.container,
            netns: &netns,
            ifname: pod.ifname,
            args: &args,
        });
        let run = Run {
            verb,
            binary: &binary,
            bin_dirs: self.bin_dirs,
            attachment,
            stdin,
            limit,
        };
        let started = Instant::now();
        let outcome = exec::run(&run).await;
        tracing::debug!(plugin = plugin.kind, %verb, network = self.list.name, ok = outcome.is_ok(),
            took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX), "ran CNI plugin");
        outcome.map_err(failed)
    }

    fn error(&self, verb: Verb, plugin: &Plugin, failure: Failure) -> ChainError {
        ChainError {
            plugin: plugin.kind.clone(),
            network: self.list.name.clone(),
            file: self.list.file.clone(),
            verb,
            failure,
        }
    }
}

/// Whether a plugin says that it has never heard of the verb.
fn is_unknown_verb(failure: &Failure) -> bool {
    match failure {
        Failure::Failed { code, message, .. } => {
            *code == Some(BAD_ENVIRONMENT) || message.to_ascii_lowercase().contains("unknown cni_command")
        }
        _ => false,
    }
}
