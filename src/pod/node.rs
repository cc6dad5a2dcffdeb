//! What kubelet tells of the node as a whole.

use std::sync::{Arc, PoisonError};

use tracing::info;

use crate::network::pod_cidr;
use crate::state::Table;
use crate::types::error::Result;

use super::{Runtime, detached};

/// Key of the pod ranges in the database.
const POD_CIDR: &str = "pod_cidr";

impl Runtime {
    /// Remembers the node's pod ranges, and makes the CNI configuration of them where there is a template for it.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no range; the template or the configuration directory cannot be used.
    pub async fn set_pod_cidr(self: &Arc<Self>, cidr: &str) -> Result<()> {
        let ranges = pod_cidr::parse(cidr)?;
        let (this, cidr) = (Arc::clone(self), cidr.to_owned());
        detached(async move {
            this.parts.db.put(Table::Meta, POD_CIDR, cidr.as_bytes())?;
            this.keep_pod_cidr(&cidr);
            if let Some(file) = this.parts.network.use_pod_ranges(ranges).await? {
                info!(%cidr, file = %file.display(), "CNI configuration made for the node's pod ranges");
            }
            Ok(())
        })
        .await
    }

    /// The node's pod ranges as kubelet told them last; empty until then.
    pub fn pod_cidr(&self) -> String {
        self.pod_cidr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes over what an earlier daemon was told.
    pub(super) fn load_pod_cidr(&self) -> Result<()> {
        if let Some(stored) = self.parts.db.get(Table::Meta, POD_CIDR)? {
            self.keep_pod_cidr(&String::from_utf8_lossy(&stored));
        }
        Ok(())
    }

    fn keep_pod_cidr(&self, cidr: &str) {
        cidr.clone_into(&mut self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
