//! CNI through plugins that misbehave in every way they can: shell scripts that log what they are told.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::types::Kind;

/// Logs verb, namespace and configuration, then goes on as `then` says.
pub(super) fn script(node: &Node, name: &str, then: &str) {
    let text = format!(
        r#"#!/bin/sh
[ $CNI_COMMAND = VERSION ] && exit 0
config=$(cat)
echo "$CNI_COMMAND {name} netns=$CNI_NETNS args=$CNI_ARGS id=$CNI_CONTAINERID if=$CNI_IFNAME" >> {log}
echo "$CNI_COMMAND {name} $config" >> {log}.config
result='{{"cniVersion":"1.0.0","interfaces":[{{"name":"eth0","sandbox":"'$CNI_NETNS'"}}],"ips":[{{"interface":0,"address":"10.1.0.7/24"}}]}}'
{then}
"#,
        log = node.path("log").display()
    );
    install(node, name, &text);
}

/// By rename: one that is being run cannot be written to.
fn install(node: &Node, name: &str, text: &str) {
    let bin = node.path("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("new"), text).unwrap();
    fs::set_permissions(bin.join("new"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(bin.join("new"), bin.join(name)).unwrap();
}

pub(super) const GOOD: &str = r#"[ $CNI_COMMAND = ADD ] && echo "$result"; exit 0"#;

pub(super) fn configure(node: &Node, version: &str, plugins: &str) {
    fs::create_dir_all(node.path("net.d")).unwrap();
    let text = format!(r#"{{"cniVersion":"{version}","name":"testnet","plugins":[{plugins}]}}"#);
    fs::write(node.path("net.d/10-test.conflist"), text).unwrap();
}

/// The verbs that ran, in order.
pub(super) fn verbs(node: &Node) -> Vec<String> {
    let log = fs::read_to_string(node.path("log")).unwrap_or_default();
    let _ = fs::remove_file(node.path("log"));
    log.lines()
        .map(|line| line.split(" netns=").next().unwrap().to_owned())
        .collect()
}

fn configs(node: &Node) -> String {
    let log = fs::read_to_string(node.path("log.config")).unwrap_or_default();
    let _ = fs::remove_file(node.path("log.config"));
    log
}

pub(super) async fn fails(network: &Network, pod: &PodNetwork) -> Error {
    network.create_netns(&pod.id).unwrap();
    network.setup(pod).await.unwrap_err()
}

pub(super) fn records(node: &Node) -> usize {
    fs::read_dir(node.path("state/pods")).unwrap().count()
}

#[test]
fn plugins_are_told_what_the_specification_says() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        script(&node, "two", GOOD);
        let capable =
            r#"{"type":"one","extra":5},{"type":"two","capabilities":{"portMappings":true,"dns":true}}"#;
        configure(&node, "1.0.0", capable);
        let network = Network::start(node.config()).await.unwrap();
        let mut web = pod("web");
        web.port_mappings = vec![mapping(Protocol::Tcp, "", 8080, 80)];
        let given = run(&network, &web).await;
        assert_eq!(given.ips, [ip("10.1.0.7")]);
        let log = fs::read_to_string(node.path("log")).unwrap();
        let netns = network.netns_path(&web.id);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-web",
            web.id
        );
        let expected = format!(
            "ADD one netns={} args={args} id={} if=eth0",
            netns.display(),
            web.id
        );
        assert_eq!(log.lines().next().unwrap(), expected);
        let configs = configs(&node);
        let (one, two) = configs.split_once('\n').unwrap();
        assert!(
            one.contains(r#""extra":5"#) && one.contains(r#""name":"testnet""#) && one.contains("1.0.0"),
            "{one}"
        );
        assert!(
            !one.contains("runtimeConfig") && !one.contains("prevResult"),
            "{one}"
        );
        assert!(
            two.contains(r#""prevResult""#) && two.contains("10.1.0.7"),
            "{two}"
        );
        assert!(
            two.contains(r#""hostPort":8080"#) && !two.contains("capabilities") && !two.contains("dns"),
            "{two}"
        );
        assert_eq!(node.left_over().1, "", "the plugin maps the ports");

        assert_eq!(verbs(&node), ["ADD one", "ADD two"]);
        stop(&network, &web).await;
        assert_eq!(verbs(&node), ["DEL two", "DEL one"]);
        network.teardown(&web.id).await.unwrap();
        assert!(verbs(&node).is_empty(), "once is enough");
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_plugin_that_fails_half_way_takes_the_whole_chain_back() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        let fail = r#"[ $CNI_COMMAND = ADD ] || exit 0
            echo 'low on luck' >&2; echo '{"code":7,"msg":"no addresses left","details":"in 10.1.0.0/24"}'; exit 1"#;
        script(&node, "two", fail);
        script(&node, "three", GOOD);
        configure(
            &node,
            "1.0.0",
            r#"{"type":"one"},{"type":"two"},{"type":"three"}"#,
        );
        let network = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        let error = fails(&network, &web).await;
        for part in [
            "\"two\"",
            "ADD",
            "\"testnet\"",
            "10-test.conflist",
            "no addresses left; in 10.1.0.0/24",
            "code 7",
            "low on luck",
        ] {
            assert!(error.message().contains(part), "{part} is not in: {error}");
        }
        assert_eq!(
            verbs(&node),
            ["ADD one", "ADD two", "DEL three", "DEL two", "DEL one"]
        );
        assert_eq!(records(&node), 0);
        assert!(network.attachment(&web.id).is_none());
        assert_eq!(
            network.collect(&HashSet::new()).await.len(),
            1,
            "only the namespace is left"
        );
        network.shutdown().await;
        node.assert_clean();
    });
}

/// The process whose id is in `file` goes away.
fn assert_dies(file: &Path) {
    let status = format!("/proc/{}/stat", fs::read_to_string(file).unwrap().trim());
    let alive = || fs::read_to_string(&status).is_ok_and(|s| !s.contains(") Z "));
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!alive());
}

#[test]
fn a_plugin_that_stalls_is_killed_with_its_children() {
    on_a_node(|node| async move {
        let pid = node.path("pid");
        let stall = format!(
            "[ $CNI_COMMAND = ADD ] || exit 0; echo waiting >&2; sleep 600 & echo $! > {}; wait",
            pid.display()
        );
        script(&node, "slow", &stall);
        configure(&node, "1.0.0", r#"{"type":"slow"}"#);
        let config = NetworkConfig {
            cni_timeout: Duration::from_millis(700),
            ..node.config()
        };
        let network = Network::start(config).await.unwrap();
        let error = fails(&network, &pod("web")).await;
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert!(
            error.message().contains("\"slow\"") && error.message().contains("waiting"),
            "{error}"
        );
        assert_dies(&pid);
        assert_eq!(records(&node), 0);
        network.collect(&HashSet::new()).await;
    });
}

#[test]
fn a_caller_that_goes_away_takes_the_plugin_along_and_leaves_a_record() {
    on_a_node(|node| async move {
        let pid = node.path("pid");
        let stall = format!(
            "[ $CNI_COMMAND = ADD ] || exit 0; echo $$ > {}; exec sleep 600",
            pid.display()
        );
        script(&node, "slow", &stall);
        configure(&node, "1.0.0", r#"{"type":"slow"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        network.create_netns(&web.id).unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(500), network.setup(&web))
                .await
                .is_err()
        );
        assert_eq!(records(&node), 1);
        verbs(&node);
        stop(&network, &web).await;
        assert_eq!(verbs(&node), ["DEL slow"]);
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn garbage_is_an_error_in_words() {
    on_a_node(|node| async move {
        let add = |what: &str| format!("[ $CNI_COMMAND = ADD ] || exit 0; {what}");
        for (then, expected) in [
            ("echo hello", "not valid JSON"),
            ("true", "no result"),
            ("echo []", "not a JSON object"),
            (r#"echo '{"cniVersion":"1.0.0"}'"#, "no address"),
            (
                r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"x"}]}'"#,
                "bad address",
            ),
            ("echo oops; exit 3", "exit status: 3"),
            ("kill -9 $$", "signal: 9"),
            ("yes", "more than 1048576 bytes"),
            (
                "yes >&2 & sleep 0.3; kill $!; echo '{\"msg\":\"noisy\"}'; exit 1",
                "noisy",
            ),
        ] {
            script(&node, "odd", &add(then));
            configure(&node, "1.0.0", r#"{"type":"odd"}"#);
            let network = Network::start(node.config()).await.unwrap();
            let error = fails(&network, &pod("web")).await;
            assert!(error.message().contains(expected), "{then}: {error}");
            assert!(
                error.message().len() < 8 << 10,
                "{then}: {} bytes",
                error.message().len()
            );
            assert_eq!(verbs(&node), ["ADD odd", "DEL odd"], "{then}");
            network.collect(&HashSet::new()).await;
        }
        node.assert_clean();
    });
}

#[test]
fn something_left_behind_by_a_plugin_does_not_hold_it_up() {
    on_a_node(|node| async move {
        let pid = node.path("pid");
        let then = format!(
            "[ $CNI_COMMAND = ADD ] || exit 0; sleep 600 & echo $! > {}; echo \"$result\"",
            pid.display()
        );
        script(&node, "forking", &then);
        configure(&node, "1.0.0", r#"{"type":"forking"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        assert_eq!(run(&network, &web).await.ips, [ip("10.1.0.7")]);
        let left: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::SIGKILL).unwrap();
        stop(&network, &web).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn teardown_needs_neither_configuration_nor_namespace() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        configure(&node, "1.0.0", r#"{"type":"one","mark":"original"}"#);
        let first = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        let given = run(&first, &web).await;
        drop(first);
        fs::remove_dir_all(node.path("net.d")).unwrap();
        netns::unpin(&node.path("netns").join(web.id.as_str())).unwrap();
        configs(&node);

        let second = Network::start(node.config()).await.unwrap();
        assert_eq!(second.attachment(&web.id), Some(given));
        fs::remove_file(node.path("log")).unwrap();
        second.teardown(&web.id).await.unwrap();
        let log = fs::read_to_string(node.path("log")).unwrap();
        assert!(log.starts_with("DEL one netns= "), "{log}");
        let config = configs(&node);
        assert!(
            config.contains("original") && config.contains("prevResult"),
            "{config}"
        );
        second.remove_netns(&web.id).unwrap();
        second.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_teardown_that_fails_tries_everything_and_can_be_repeated() {
    on_a_node(|node| async move {
        let flag = node.path("broken");
        let del = format!(
            r#"[ $CNI_COMMAND = DEL ] && [ -e {} ] && {{ echo '{{"msg":"busy"}}'; exit 1; }}"#,
            flag.display()
        );
        script(&node, "one", &format!("{del}\n{GOOD}"));
        script(&node, "two", &format!("{del}\n{GOOD}"));
        configure(&node, "1.0.0", r#"{"type":"one"},{"type":"two"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        run(&network, &web).await;
        verbs(&node);
        fs::write(&flag, "").unwrap();
        let error = network.teardown(&web.id).await.unwrap_err();
        assert!(
            error.message().contains("\"one\"") && error.message().contains("\"two\""),
            "{error}"
        );
        assert!(error.message().contains("default/web"), "{error}");
        assert_eq!(verbs(&node), ["DEL two", "DEL one"]);
        assert!(network.attachment(&web.id).is_some());
        fs::remove_file(&flag).unwrap();
        stop(&network, &web).await;
        assert_eq!(verbs(&node), ["DEL two", "DEL one"]);
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_crash_between_intent_and_result_is_cleaned_up() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        configure(&node, "1.0.0", r#"{"type":"one"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let web = pod("web");
        run(&network, &web).await;
        // Back to what is on disk before the plugin has answered.
        let path = node.path("state/pods").join(format!("{}.json", web.id));
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["attachment"] = serde_json::Value::Null;
        record["via"]["cni"]["result"] = serde_json::Value::Null;
        fs::write(&path, record.to_string()).unwrap();
        drop(network);
        let _ = (verbs(&node), configs(&node));

        let network = Network::start(node.config()).await.unwrap();
        assert!(network.attachment(&web.id).is_none());
        let found = network.collect(&HashSet::new()).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(verbs(&node), ["DEL one"]);
        assert!(!configs(&node).contains("prevResult"));
        network.shutdown().await;
        node.assert_clean();
    });
}

/// Waits for the watcher: how long it takes is its business, that it notices is ours.
async fn until(network: &Network, ready: bool, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let condition = network.condition();
        if condition.ready == ready && condition.message.contains(text) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "still {condition:?}, not {ready} with {text:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn the_condition_follows_the_configuration() {
    on_a_node(|node| async move {
        let network = Network::start(node.config()).await.unwrap();
        let condition = network.condition();
        assert_eq!(
            (condition.ready, condition.reason.as_str()),
            (false, "NetworkPluginNotReady")
        );
        assert!(
            condition.message.contains("net.d") && condition.message.contains("built-in"),
            "{condition:?}"
        );
        assert!(fails(&network, &pod("early")).await.message().contains("net.d"));

        script(&node, "one", GOOD);
        configure(&node, "1.0.0", r#"{"type":"one"}"#);
        run(&network, &pod("at-once")).await;
        until(&network, true, "").await;
        assert_eq!(network.cni_status().0, "OK");
        let shown = network.cni_status().1;
        assert_eq!(shown["Networks"][0]["Config"]["Name"], "testnet");

        fs::write(node.path("net.d/10-test.conflist"), "{\"name\":").unwrap();
        until(&network, false, "10-test.conflist").await;
        let error = fails(&network, &pod("broken")).await;
        assert!(error.message().contains("10-test.conflist"), "{error}");
        assert!(network.cni_status().0.contains("JSON"));

        configure(&node, "1.0.0", r#"{"type":"missing"}"#);
        until(&network, false, "\"missing\" is not installed; searched").await;
        assert!(
            fails(&network, &pod("missing"))
                .await
                .message()
                .contains("/bin, /usr/lib/cni")
        );

        fs::remove_dir_all(node.path("net.d")).unwrap();
        until(&network, false, "no CNI configuration").await;
        configure(&node, "1.0.0", r#"{"type":"one"}"#);
        until(&network, true, "").await;
        network.collect(&HashSet::new()).await;
        network.shutdown().await;
        node.assert_clean();
    });
}

#[test]
fn a_plugin_of_the_newest_version_is_asked_whether_it_is_ready() {
    on_a_node(|node| async move {
        let sick = r#"[ $CNI_COMMAND = STATUS ] && { echo '{"code":50,"msg":"agent is down"}'; exit 1; }"#;
        script(&node, "one", &format!("{sick}\n{GOOD}"));
        configure(&node, "1.1.0", r#"{"type":"one"}"#);
        let network = Network::start(node.config()).await.unwrap();
        let message = network.condition().message;
        assert!(
            message.contains("agent is down") && message.contains("STATUS"),
            "{message}"
        );

        let unaware = r#"[ $CNI_COMMAND = STATUS ] && { echo '{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}'; exit 1; }"#;
        script(&node, "one", &format!("{unaware}\n{GOOD}"));
        let network = Network::start(node.config()).await.unwrap();
        assert!(network.condition().ready, "{:?}", network.condition());
        drop(network);
        configure(&node, "1.0.0", r#"{"type":"one"}"#);
        verbs(&node);
        Network::start(node.config()).await.unwrap();
        assert!(verbs(&node).is_empty(), "older networks have no such question");
    });
}

#[test]
fn garbage_collection_spares_the_attachments_of_others() {
    on_a_node(|node| async move {
        script(&node, "one", GOOD);
        configure(&node, "1.1.0", r#"{"type":"one"}"#);
        let cache = node.path("results");
        let config = NetworkConfig {
            cni_shared_cache: Some(cache.clone()),
            ..node.config()
        };
        let network = Network::start(config).await.unwrap();
        let web = pod("web");
        run(&network, &web).await;
        let own = fs::read_to_string(cache.join(format!("testnet-{}-eth0", web.id))).unwrap();
        assert!(own.contains("cniCacheV1") && own.contains("10.1.0.7"), "{own}");
        let entry = |name: &str, text: &str| fs::write(cache.join(name), text).unwrap();
        entry(
            "testnet-other-eth0",
            r#"{"networkName":"testnet","containerId":"other","ifName":"eth0"}"#,
        );
        entry(
            "elsewhere-x-eth0",
            r#"{"networkName":"elsewhere","containerId":"x","ifName":"eth0"}"#,
        );
        let live = HashSet::from([web.id.clone()]);
        let _ = (verbs(&node), configs(&node));
        assert!(network.collect(&live).await.is_empty());
        assert_eq!(verbs(&node), ["GC one"]);
        let config = configs(&node);
        assert!(
            config.contains("cni.dev/valid-attachments") && config.contains("\"other\""),
            "{config}"
        );
        assert!(
            config.contains(web.id.as_str()) && !config.contains("\"x\""),
            "{config}"
        );

        entry("testnet-torn-eth0", "{");
        assert!(network.collect(&live).await[0].contains("left out"));
        assert!(
            verbs(&node).is_empty(),
            "who does not know what is in use must not collect"
        );
        stop(&network, &web).await;
        assert!(!cache.join(format!("testnet-{}-eth0", web.id)).exists());

        let network = Network::start(node.config()).await.unwrap();
        verbs(&node);
        assert!(network.collect(&live).await.is_empty());
        assert!(verbs(&node).is_empty(), "nor who does not look");
    });
}

#[test]
fn a_plugin_that_does_not_know_the_version_is_found_before_the_first_pod() {
    on_a_node(|node| async move {
        configure(&node, "1.0.0", r#"{"type":"old"}"#);
        let answers = |versions: &str| {
            let text = format!(
                "#!/bin/sh\necho '{{\"cniVersion\":\"0.4.0\",\"supportedVersions\":[{versions}]}}'\n"
            );
            install(&node, "old", &text);
        };
        answers(r#""0.3.1","0.4.0""#);
        let network = Network::start(node.config()).await.unwrap();
        let message = network.condition().message;
        assert!(
            message.contains("\"old\"") && message.contains("0.3.1, 0.4.0") && message.contains("1.0.0"),
            "{message}"
        );
        answers(r#""0.4.0","1.0.0""#);
        assert!(Network::start(node.config()).await.unwrap().condition().ready);
    });
}
