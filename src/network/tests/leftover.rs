//! Plugins that are not there any more, and how the configuration is shown.

use super::plugins::{GOOD, configure, fails, records, script, verbs};
use super::*;

/// The keys are containerd's, and so is what is in them.
#[test]
fn the_configuration_is_shown_in_the_form_that_scripts_know() {
    on_a_node(|node| async move {
        let empty = Network::start(node.config()).await.unwrap().cni_status().1;
        assert_eq!(empty["Networks"], serde_json::json!([]));
        assert_eq!(empty["PluginConfDir"], node.path("net.d").to_str().unwrap());

        script(&node, "one", GOOD);
        configure(
            &node,
            "1.0.0",
            r#"{"type":"one","mtu":9,"ipam":{"type":"host-local","subnet":"10.1.0.0/24"},"capabilities":{"portMappings":true}},{"type":"one"}"#,
        );
        let network = Network::start(node.config()).await.unwrap();
        let mut shown = network.cni_status().1;
        let bin_dirs = [node.path("bin"), "/usr/lib/cni".into()];
        assert_eq!(shown["PluginDirs"], serde_json::json!(bin_dirs));
        assert_eq!(shown["PluginMaxConfNum"], 1);
        assert_eq!(shown["Prefix"], "eth");
        let mut given = shown["Networks"][0].take();
        assert_eq!(shown["Networks"].as_array().unwrap().len(), 1);
        assert_eq!(given["IFName"], "eth0");
        let source = |value: &mut serde_json::Value| -> serde_json::Value {
            serde_json::from_str(value.take().as_str().unwrap()).unwrap()
        };
        let file = fs::read(node.path("net.d/10-test.conflist")).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(source(&mut given["Config"]["Source"]), file);
        assert_eq!(
            source(&mut given["Config"]["Plugins"][0]["Source"]),
            file["plugins"][0]
        );
        assert_eq!(
            given["Config"],
            serde_json::json!({
                "Name": "testnet", "CNIVersion": "1.0.0", "Source": null,
                "Plugins": [
                    {
                        "Network": {"type": "one", "ipam": {"type": "host-local"}, "capabilities": {"portMappings": true}},
                        "Source": null,
                    },
                    {"Network": {"type": "one", "ipam": {}}, "Source": r#"{"type":"one"}"#},
                ],
            })
        );
    });
}

/// A plugin that never ran has nothing to take back.
#[test]
fn a_plugin_that_is_missing_when_the_pod_is_attached_does_not_keep_it() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        script(&node, "two", GOOD);
        configure(&node, "1.0.0", r#"{"type":"one"},{"type":"two"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        // The configuration was looked at; that a plugin goes is found when it is to be run.
        fs::remove_file(node.path("bin/two")).unwrap();
        let error = fails(&network, &web).await;
        assert!(
            error.message().contains("\"two\" is not installed") && !error.message().contains("cleaning up"),
            "{error}"
        );
        assert_eq!(verbs(&node), ["ADD one", "DEL one"]);
        assert_eq!(records(&node), 0);
        network.teardown(&web.id).await.unwrap();
    });
}

/// One that did run is waited for, since installers replace plugins, but not for ever.
#[test]
fn a_plugin_that_is_gone_for_good_does_not_keep_a_pod_for_ever() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        script(&node, "two", GOOD);
        configure(&node, "1.0.0", r#"{"type":"one"},{"type":"two"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let (web, other) = (pod("web"), pod("other"));
        run(&network, &web).await;
        run(&network, &other).await;
        verbs(&node);
        fs::remove_file(node.path("bin/two")).unwrap();
        for _ in 0..2 {
            let error = network.teardown(&web.id).await.unwrap_err();
            assert!(
                error.message().contains("\"two\" is not installed") && error.message().contains("300 s"),
                "{error}"
            );
            assert_eq!(verbs(&node), ["DEL one"]);
        }
        assert_eq!(records(&node), 2);
        // It is back, as after an upgrade.
        script(&node, "two", GOOD);
        network.teardown(&web.id).await.unwrap();
        assert_eq!(verbs(&node), ["DEL two", "DEL one"]);
        assert_eq!(records(&node), 1);

        fs::remove_file(node.path("bin/two")).unwrap();
        // Whatever else fails still keeps the pod.
        script(&node, "one", "echo '{\"code\":7,\"msg\":\"no\"}'; exit 1");
        let impatient = NetworkConfig {
            missing_plugin_patience: Duration::ZERO,
            ..node.config()
        };
        let network = Network::start(impatient).await.unwrap();
        network.teardown(&other.id).await.unwrap_err();
        assert_eq!(records(&node), 1);
        script(&node, "one", GOOD);
        network.teardown(&other.id).await.unwrap();
        assert_eq!(records(&node), 0);
    });
}
