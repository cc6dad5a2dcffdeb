//! RuntimeConfig: tells kubelet which cgroup driver to use.

use crate::config::CgroupDriver;
use crate::cri::proto as p;
use crate::pod::Runtime;
use crate::types::error::Result;

pub(super) async fn call(runtime: &Runtime) -> Result<p::RuntimeConfigResponse> {
    let driver = match runtime.config().cgroup.driver {
        CgroupDriver::Cgroupfs => p::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => p::CgroupDriver::Systemd,
    };
    Ok(p::RuntimeConfigResponse {
        linux: Some(p::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        }),
    })
}
