//! What an earlier agent left in the maps, for the planner: the backends of the API server's own Service, which are kept when its
//! slices hold none. An agent that starts while they hold none knows of no others.

use std::{collections::BTreeMap, sync::Arc};

use super::state::Agent;
use crate::{
    maps::Standing,
    model::{Endpoint, EndpointGroup, EndpointPort, Object, Service, ServicePort},
    plan::is_api_server,
};

impl Agent {
    /// To be called before the planner gets this object, and so before anything of it gets to the maps.
    pub(super) fn recall_api_server(&mut self, object: &Object) {
        let Object::Service(service) = object else { return };
        if self.ready || !self.adopted || !is_api_server(&object.key()) {
            return;
        }
        let groups = groups(service, &self.settings.node_name, |port| {
            self.tables.standing(&service.name, &port.name, port.protocol)
        });
        self.planner.remember_api_server_groups(groups);
    }
}

/// Slices that would have made these backends: one for each port of the Service and target port.
fn groups(service: &Service, node_name: &str, standing: impl Fn(&ServicePort) -> Vec<Standing>) -> Vec<EndpointGroup> {
    let mut groups = Vec::new();
    for service_port in &service.ports {
        let mut by_port: BTreeMap<u16, Vec<Endpoint>> = BTreeMap::new();
        for Standing { address, port, terminating, local } in standing(service_port) {
            by_port.entry(port).or_default().push(Endpoint {
                address,
                ready: !terminating,
                serving: true,
                terminating,
                node_name: local.then(|| Arc::from(node_name)),
                zone: None,
                zone_hints: Vec::new(),
                node_hints: Vec::new(),
            });
        }
        groups.extend(by_port.into_iter().map(|(port, endpoints)| EndpointGroup {
            ports: vec![EndpointPort { name: Arc::clone(&service_port.name), port, protocol: service_port.protocol }],
            endpoints,
        }));
    }
    groups
}
