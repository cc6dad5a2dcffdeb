//! What no criu is needed for to be refused.

use super::*;

#[tokio::test]
async fn a_node_restores_nothing_unless_it_is_told_to() -> Result<()> {
    run_with(level("checkpoint"), async |husk| {
        let image = husk.busybox().await?;
        let pod = own_network(husk, "not-allowed").await?;
        let archive = Layer::new()
            .file("config.dump", format!(r#"{{"rootfsImage":{image:?}}}"#), 0o644)
            .file("spec.dump", r#"{"ociVersion":"1.2.0"}"#, 0o644)
            .dir("checkpoint/");
        let built = Image::new().layer(archive).build()?;
        let registry = shared_registry()?;
        registry.push("checkpoints/forbidden", "1", &built)?;
        let reference = format!("{}/checkpoints/forbidden:1", registry.host());
        husk.cri.pull(&reference).await?;
        let file = husk.dir().join("checkpoint.tar");
        std::fs::write(&file, "anything")?;
        for name in [reference, file.display().to_string()] {
            let refused = husk.cri.create(&pod, restored("no", &name)).await;
            let refused = refused.refused_with(Code::PermissionDenied)?;
            ensure!(refused.message().contains("[checkpoint] level"), "{refused:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn checkpoints_are_refused_with_the_reason_that_applies() -> Result<()> {
    run_with(level("none"), async |husk| {
        let image = husk.busybox().await?;
        let pod = husk.cri.pod(husk.pod_config("checkpoint")).await?;
        let id = husk.cri.create(&pod, sleeper("main", &image)).await?;
        let location = husk.dir().join("checkpoint.tar");
        checkpoint(husk, "0123456789abcdef", &location)
            .await
            .refused_with(Code::NotFound)?;
        let refused = checkpoint(husk, &id, &location)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(refused.message().contains("not running"), "{refused:?}");
        husk.cri.start(&id).await?;
        for wrong in ["relative", "/"] {
            checkpoint(husk, &id, Path::new(wrong))
                .await
                .refused_with(Code::InvalidArgument)?;
        }
        let request = CheckpointContainerRequest {
            container_id: id.clone(),
            location: location.display().to_string(),
            timeout: -1,
        };
        let negative = husk.cri.runtime().checkpoint_container(request).await;
        negative.refused_with(Code::InvalidArgument)?;
        let refused = checkpoint(husk, &id, &location)
            .await
            .refused_with(Code::FailedPrecondition)?;
        ensure!(refused.message().contains("switched off"), "{refused:?}");
        ensure!(!location.exists(), "something was written");
        ensure!(husk.cri.status(&id).await?.state() == ContainerState::ContainerRunning);
        Ok(())
    })
    .await
}
