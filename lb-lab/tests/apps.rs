//! Real servers in pods: the story's containers, and a DNS server.

use std::net::IpAddr;

use lb_lab::{Folder, Host, Lab, apps, objects, peer::HttpLoad};

#[test]
fn nginx_and_redis_share_a_pod() {
    let lab = Lab::story().unwrap();
    let pod = lab.node("raspi002").add_pod_at("sample-deployment-1", 72).unwrap();
    let _nginx = apps::nginx(&pod).unwrap();
    let mut redis = apps::redis(&pod).unwrap();
    let page = lab.node("raspi001").sh("curl -s 10.244.1.72; curl -s 'http://[fd00:10:244:1::72]'").unwrap();
    assert_eq!(page, "sample-deployment-1\nsample-deployment-1\n");
    assert_eq!(pod.sh("redis-cli ping").unwrap(), "PONG\n");
    let load = lab.node("raspi003").ask(HttpLoad::count((pod.ip4(), 80).into(), 200)).unwrap();
    assert_eq!((load.answered(), load.failed), (200, 0), "{load:?}");
    assert_eq!(load.names["sample-deployment-1"], 200);
    let proxy = lab.node("raspi003").add_pod("proxy").unwrap();
    let _ingress = apps::ingress(&proxy, &[("shop.example.org", (pod.ip4(), 80).into())]).unwrap();
    let by_name = |site: &str| pod.sh(&format!("curl -s -H 'Host: {site}' {}", proxy.ip4())).unwrap();
    assert_eq!(by_name("shop.example.org"), "sample-deployment-1\n");
    assert!(by_name("other.example.org").contains("404 Not Found"));
    redis.terminate(std::time::Duration::from_secs(5)).unwrap();
}

#[test]
fn dnsmasq_answers_and_forwards() {
    let lab = Lab::story().unwrap();
    let outside: IpAddr = "203.0.113.80".parse().unwrap();
    let home = apps::Records { hosts: vec![("www.example.org".into(), outside)], ..Default::default() };
    let _router = apps::dnsmasq(lab.router(), &home).unwrap();
    let pod = lab.node("raspi003").add_pod("dns").unwrap();
    let name = "sample-clusterip.default.svc.cluster.local".to_owned();
    let records = apps::Records {
        hosts: vec![(name.clone(), "10.111.197.69".parse().unwrap())],
        services: vec![(format!("_http-port._tcp.{name}"), name.clone(), 8080)],
        aliases: vec![("alias.default.svc.cluster.local".into(), name.clone())],
        domain: Some("cluster.local".into()),
        upstream: Some(lab.router().addresses().v4.addr().into()),
    };
    let _dns = apps::dnsmasq(&pod, &records).unwrap();
    let ask =
        |question: &str| lab.node("raspi001").sh(&format!("kdig +short +timeout=2 @{} {question}", pod.ip4())).unwrap();
    assert_eq!(ask(&name), "10.111.197.69\n");
    assert_eq!(ask(&format!("+tcp {name}")), "10.111.197.69\n");
    assert_eq!(ask(&format!("_http-port._tcp.{name} SRV")), format!("0 0 8080 {name}.\n"));
    assert_eq!(ask("-x 10.111.197.69"), format!("{name}.\n"));
    assert_eq!(ask("www.example.org"), "203.0.113.80\n");
    assert_eq!(ask("alias.default.svc.cluster.local"), format!("{name}.\n10.111.197.69\n"));
    assert_eq!(ask("unknown.default.svc.cluster.local"), "");
    // A pod's own resolver, with the kubelet's search list; the machine's file is not touched.
    let before = std::fs::read("/etc/resolv.conf").unwrap();
    let mut client = lab.node("raspi002").add_pod("client").unwrap();
    client.set_dns(pod.ip4().into()).unwrap();
    assert_eq!(
        client.sh("getent ahostsv4 sample-clusterip | grep STREAM").unwrap().split(' ').next(),
        Some("10.111.197.69")
    );
    assert_eq!(std::fs::read("/etc/resolv.conf").unwrap(), before);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let lab = Lab::story().unwrap();
    let pod = lab.node("raspi002").add_pod("sample").unwrap();
    let taken = pod.serve_at("taken", &["[::]:80".parse().unwrap()]).unwrap();
    let error = apps::nginx(&pod).unwrap_err().to_string();
    assert!(error.contains("nginx on sample") && error.contains("port 80 is taken"), "{error}");
    drop(taken);
    let records =
        apps::Records { hosts: vec![("name\nno-such-option".into(), pod.ip4().into())], ..Default::default() };
    let error = apps::dnsmasq(&pod, &records).unwrap_err().to_string();
    assert!(error.contains("dnsmasq on sample: it ended with") && error.contains("dnsmasq.conf"), "{error}");
}

#[test]
fn objects_are_replaced_whole() {
    let lab = Lab::story().unwrap();
    let folder = Folder::create(&lab.dir().join("objects")).unwrap();
    folder.put("nodes", &[&objects::nodes(&lab)]).unwrap();
    let service = objects::Service::new(
        "sample-clusterip",
        &["10.111.197.69".parse().unwrap()],
        &[objects::Port::tcp("http-port", 8080, 80)],
    );
    let pod = lab.node("raspi002").add_pod_at("sample", 72).unwrap();
    folder.put("sample", &[&service, &service.slice(&[objects::Endpoint::v4(&pod)])]).unwrap();
    let text = std::fs::read_to_string(folder.path().join("sample.yaml")).unwrap();
    assert!(text.contains("- 10.244.1.72") && text.contains("nodeName: raspi002"), "{text}");
    folder.put("sample", &[&service]).unwrap();
    let names = || {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["nodes.yaml", "sample.yaml"]);
    folder.remove("sample").unwrap();
    folder.remove("sample").unwrap();
    assert_eq!(names(), ["nodes.yaml"]);
}
