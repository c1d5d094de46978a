//! Services by DNS name, by ClusterIP and by NodePort.

use crate::harness::Cluster;
use crate::images::{BUSYBOX, builtin, import_busybox};
use crate::kubectl::{http_get, items, line_value, text};

#[test]
fn services_are_reached_by_name_address_and_node_port() {
    let mut cluster = Cluster::start();
    import_busybox(&cluster);
    let kubectl = cluster.kubectl();
    let image = builtin();
    kubectl.ok(&format!("create deployment web --image={image} --replicas=2 -- rusternetes hello --port 8080"));
    kubectl.ok("rollout status deployment/web --timeout=120s");
    assert_eq!(kubectl.ok("expose deployment web --port=80 --target-port=8080 --type=NodePort").trim(), "service/web exposed");
    let service = kubectl.json("get service web");
    let cluster_ip = text(&service["spec"]["clusterIP"]);
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    let node_ip = text(&kubectl.json("get nodes")["items"][0]["status"]["addresses"][0]["address"]);

    let pods: Vec<String> = items(&kubectl.json("get pods -l app=web")).map(|pod| text(&pod["metadata"]["name"])).collect();
    cluster.wait_for("both endpoints", |_| {
        let slices = kubectl.json("get endpointslices -l kubernetes.io/service-name=web");
        slices["items"][0]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 2)
    });
    // From the host, by both ways, until each pod has answered: the choice is random.
    for (host, port) in [(cluster_ip.as_str(), 80), (node_ip.as_str(), u16::try_from(node_port).expect("a port"))] {
        let mut missing = pods.clone();
        cluster.wait_for("an answer of each pod", |_| {
            let host = line_value(&http_get(host, port), "host: ");
            assert!(pods.contains(&host), "{host} is none of {pods:?}");
            missing.retain(|pod| *pod != host);
            missing.is_empty()
        });
    }

    // From a pod: every form of the name leads to the address, and the address to a pod.
    kubectl.ok_arguments(["run", "box", &format!("--image={BUSYBOX}"), "--restart=Never", "--", "sh", "-c", "sleep 3600"]);
    kubectl.ok("wait --for=condition=Ready pod/box --timeout=120s");
    // (Debian's static busybox cannot look up names in its other applets: the script asks the DNS itself.)
    for name in ["web", "web.default.svc.cluster.local"] {
        let script = format!(
            "a=$(nslookup -type=a {name} | awk '/^Address: /{{print $2}}'); echo address $a; (printf 'GET /path HTTP/1.0\r\n\r\n'; sleep 1) | nc $a 80"
        );
        let answer = kubectl.ok_arguments(["exec", "box", "--", "sh", "-c", &script]);
        assert_eq!(line_value(&answer, "address "), cluster_ip, "{name}");
        assert!(pods.contains(&line_value(&answer, "host: ")), "{answer}");
        assert_eq!(line_value(&answer, "path: "), "/path");
    }
    let resolv = kubectl.ok("exec box -- cat /etc/resolv.conf");
    assert!(resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{resolv}");
    let missing = kubectl.output(["exec", "box", "--", "nslookup", "nothing.default.svc.cluster.local"]);
    let said = [missing.stdout, missing.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("NXDOMAIN"), "{}", String::from_utf8_lossy(&said));

    // The token that the pod is given opens the API server behind its Service.
    let token = kubectl.ok("exec box -- cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    let api = text(&kubectl.json("get service kubernetes")["spec"]["clusterIP"]);
    let header = format!("Authorization: Bearer {token}");
    let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    let url = format!("https://{api}/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let asked = std::process::Command::new("curl")
        .args(["-sSk", "--max-time", "60", "-H", &header, "-H", "Content-Type: application/json", "-d", review, &url])
        .output()
        .expect("curl");
    let answer = String::from_utf8_lossy(&asked.stdout);
    assert!(answer.contains("system:serviceaccount:default:default"), "{answer}");

    // Without endpoints a connection is refused at once, not left hanging.
    kubectl.ok("scale deployment/web --replicas=0");
    cluster.wait_for("no endpoints", |_| {
        let begun = std::time::Instant::now();
        crate::kubectl::try_http_get(&cluster_ip, 80, "/").is_err() && begun.elapsed() < std::time::Duration::from_secs(1)
    });
}
