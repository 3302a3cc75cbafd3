//! The text of the lab's Kubernetes objects.

use lb_lab::objects::{Endpoint, Port, Service};

#[test]
fn a_service_reads_as_kubectl_prints_it() {
    let ports = [Port { node_port: Some(30080), ..Port::tcp("http-port", 8080, 80) }];
    let ips = ["10.111.197.69".parse().unwrap(), "fd00:10:96::".parse().unwrap()];
    let service = Service { kind: "NodePort", ..Service::new("sample-clusterip", &ips, &ports) };
    let expected = "apiVersion: v1
kind: Service
metadata:
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  name: sample-clusterip
  namespace: default
  resourceVersion: \"1\"
spec:
  clusterIP: 10.111.197.69
  clusterIPs:
  - 10.111.197.69
  - 'fd00:10:96::'
  internalTrafficPolicy: Cluster
  ipFamilies:
  - IPv4
  - IPv6
  ipFamilyPolicy: PreferDualStack
  ports:
  - name: http-port
    nodePort: 30080
    port: 8080
    protocol: TCP
    targetPort: 80
  selector:
    app: sample-app
  sessionAffinity: None
  type: NodePort
status:
  loadBalancer: {}
";
    assert_eq!(service.to_string(), expected);
}

#[test]
fn environment_is_the_kubelets() {
    let service =
        Service::new("sample-clusterip", &["10.111.197.69".parse().unwrap()], &[Port::tcp("http-port", 8080, 80)]);
    let expected = [
        ("SAMPLE_CLUSTERIP_SERVICE_HOST", "10.111.197.69"),
        ("SAMPLE_CLUSTERIP_SERVICE_PORT", "8080"),
        ("SAMPLE_CLUSTERIP_PORT", "tcp://10.111.197.69:8080"),
        ("SAMPLE_CLUSTERIP_SERVICE_PORT_HTTP_PORT", "8080"),
        ("SAMPLE_CLUSTERIP_PORT_8080_TCP", "tcp://10.111.197.69:8080"),
        ("SAMPLE_CLUSTERIP_PORT_8080_TCP_PROTO", "tcp"),
        ("SAMPLE_CLUSTERIP_PORT_8080_TCP_PORT", "8080"),
        ("SAMPLE_CLUSTERIP_PORT_8080_TCP_ADDR", "10.111.197.69"),
    ];
    let found = service.environment();
    let found: Vec<_> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_slice_reads_as_kubectl_prints_it() {
    let service = Service::new("web", &[], &[Port::tcp("", 80, 8080)]);
    let endpoint = Endpoint::new("fd00:10:244:1::72".parse().unwrap(), "raspi002").terminating();
    let expected = "addressType: IPv6
apiVersion: discovery.k8s.io/v1
endpoints:
- addresses:
  - fd00:10:244:1::72
  conditions:
    ready: false
    serving: true
    terminating: true
  nodeName: raspi002
kind: EndpointSlice
metadata:
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  labels:
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
    kubernetes.io/service-name: web
  name: web-ipv6
  namespace: default
  resourceVersion: \"1\"
ports:
- name: \"\"
  port: 8080
  protocol: TCP
";
    assert_eq!(service.slice(&[endpoint]).to_string(), expected);
}
