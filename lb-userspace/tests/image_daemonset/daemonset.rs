//! A DaemonSet of `manifests/`, read as a kubelet reads it.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

/// What a pod of it is.
pub(crate) struct DaemonSet {
    pub(crate) container: Value,
    pub(crate) pod: Value,
    /// Files of the ConfigMaps, by the name of the map.
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl DaemonSet {
    /// Of the file `manifests/NAME`.
    pub(crate) fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let objects: Vec<Value> =
            text.split("\n---\n").map(|document| serde_yaml::from_str(document).unwrap()).collect();
        let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        let config_maps = of_kind("ConfigMap").map(|map| {
            let files = map["data"].as_object().unwrap().iter();
            let files = files.map(|(name, text)| (name.clone(), text.as_str().unwrap().to_owned())).collect();
            (map["metadata"]["name"].as_str().unwrap().to_owned(), files)
        });
        let config_maps = config_maps.collect();
        let [set] = of_kind("DaemonSet").collect::<Vec<_>>()[..] else { panic!("{name}: not one DaemonSet") };
        let pod = set["spec"]["template"]["spec"].clone();
        assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
        assert_eq!(pod["hostNetwork"], true);
        Self { container: pod["containers"][0].clone(), pod, config_maps }
    }

    /// Command and arguments.
    pub(crate) fn command(&self) -> Vec<String> {
        let words = |key: &str| self.container[key].as_array().unwrap().clone();
        let all = words("command").into_iter().chain(words("args"));
        all.map(|word| word.as_str().unwrap().to_owned()).collect()
    }

    /// The environment that it asks for, and what a kubelet adds for the API server's Service.
    pub(crate) fn environment(&self, node_name: &str, api_service: std::net::SocketAddr) -> Vec<String> {
        let mut variables = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            format!("KUBERNETES_SERVICE_HOST={}", api_service.ip()),
            format!("KUBERNETES_SERVICE_PORT={}", api_service.port()),
        ];
        for variable in self.container["env"].as_array().unwrap() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => node_name,
                Some(other) => panic!("{other} is not known here"),
                None => variable["value"].as_str().unwrap(),
            };
            variables.push(format!("{}={value}", variable["name"].as_str().unwrap()));
        }
        variables
    }

    /// The source of a volume, such as `{"hostPath": …}`.
    pub(crate) fn volume(&self, name: &str) -> &Value {
        let volumes = self.pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("no volume {name}"))
    }

    /// `securityContext.privileged`.
    pub(crate) fn is_privileged(&self) -> bool {
        self.container["securityContext"]["privileged"] == true
    }

    /// Port and path of a probe.
    pub(crate) fn probe(&self, kind: &str) -> (u16, String) {
        let get = &self.container[kind]["httpGet"];
        let ports = self.container["ports"].as_array().unwrap();
        let port =
            ports.iter().find(|port| port["name"] == get["port"]).expect("the probe's port is one of the container's");
        let number = port["containerPort"].as_u64().unwrap();
        (number.try_into().unwrap(), get["path"].as_str().unwrap().to_owned())
    }
}
