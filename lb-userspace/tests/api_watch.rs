//! The watches against a server with TLS and tokens: what a kubeconfig names is read again when it has changed.

use std::{path::Path, time::Duration};

use berrylb::{
    k8s::watch::{self, Access, Event, Hints, KINDS, Patience, Watches},
    model::Object,
};
use lb_lab::api_server::{ApiConfig, ApiServer};

/// How long anything may take on a busy machine, waits after failures included.
const LIMIT: Duration = Duration::from_secs(30);

fn service(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, \
         spec: {{clusterIP: 10.96.0.7, ports: [{{port: 80}}]}}}}"
    )
}

/// Writes what a client needs now.
fn write_kubeconfig(server: &ApiServer, folder: &Path) {
    let roots = folder.join("ca.pem");
    std::fs::write(&roots, server.ca_pem().unwrap()).unwrap();
    std::fs::write(folder.join("config"), server.kubeconfig(Some(&roots))).unwrap();
}

/// Waits for an event of this kind; gives what came before, too.
async fn until(watches: &mut Watches, what: &str, wanted: impl Fn(&Event) -> bool) {
    let wait = async {
        loop {
            if watches.next().await.events.iter().any(&wanted) {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

fn puts(name: &'static str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Put(object) if matches!(&**object, Object::Service(s) if s.name.name() == &*name))
}

#[tokio::test]
async fn expired_tokens_and_rotated_authorities_are_read_again() {
    let server = ApiServer::start(ApiConfig { tls: true, token: Some("one".into()), ..ApiConfig::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_kubeconfig(&server, folder.path());
    let hints = Hints { kubeconfig: Some(folder.path().join("config")), ..Hints::default() };
    let access = Access::new(hints, |_| None).unwrap();
    server.apply(&service("first")).unwrap();
    let local = tokio::task::LocalSet::new();
    let work = async {
        let mut watches = watch::start(access, Patience::default()).await.unwrap();
        let mut whole = 0;
        while whole < KINDS.len() {
            let update = tokio::time::timeout(LIMIT, watches.next()).await.unwrap();
            whole += update.events.iter().filter(|event| matches!(event, Event::Whole(_))).count();
        }

        server.set_token(Some("two"));
        server.drop_connections();
        until(&mut watches, "401", |event| matches!(event, Event::Failing(why) if why.contains("401"))).await;
        write_kubeconfig(&server, folder.path());
        server.apply(&service("second")).unwrap();
        until(&mut watches, "a Service after the new token", puts("second")).await;

        server.rotate_ca().unwrap();
        server.drop_connections();
        until(
            &mut watches,
            "a bad certificate",
            |event| matches!(event, Event::Failing(why) if why.contains("certificate")),
        )
        .await;
        write_kubeconfig(&server, folder.path());
        server.apply(&service("third")).unwrap();
        until(&mut watches, "a Service after the new CA", puts("third")).await;
    };
    local.run_until(work).await;
}
