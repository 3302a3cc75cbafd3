//! Listeners follow the plan, on loopback addresses of their own.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::LocalSet,
};

use super::*;

const PORT: u16 = 32_100;

fn check(name: &str, port: u16, local_endpoints: usize) -> HealthCheck {
    HealthCheck { service: ServiceName::new("default", name), port, local_endpoints }
}

/// A plan, and something in the place of the loop that answers from it.
struct World {
    plan: Rc<RefCell<(Vec<HealthCheck>, bool)>>,
    checks: HealthChecks,
    address: IpAddr,
}

impl World {
    fn new(address: [u8; 4]) -> Self {
        let (asker, mut questions) = mpsc::channel(4);
        let plan: Rc<RefCell<(Vec<HealthCheck>, bool)>> = Rc::new(RefCell::new((Vec::new(), true)));
        let answers = Rc::clone(&plan);
        tokio::task::spawn_local(async move {
            while let Some(question) = questions.recv().await {
                let Question::HealthCheck(port, sender) = question else { panic!("{question:?}") };
                let (checks, ready) = &*answers.borrow();
                let answer = checks.iter().find(|check| check.port == port).map(|c| HealthAnswer::new(c, *ready));
                let _gone = sender.send(answer);
            }
        });
        Self { plan, checks: HealthChecks::new(asker), address: address.into() }
    }

    fn plan(&mut self, checks: &[HealthCheck]) {
        self.plan.borrow_mut().0 = checks.to_vec();
        self.checks.follow(checks, &[self.address]);
    }

    /// Status line, headers and body; or the error of connecting.
    async fn get(&self, port: u16) -> io::Result<String> {
        // A listener that was closed is gone once its task has run.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut stream = TcpStream::connect((self.address, port)).await?;
        stream.write_all(b"GET /any HTTP/1.1\r\nHost: lb\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text.to_lowercase())
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(test));
}

fn refused(answer: &io::Result<String>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[test]
fn they_come_and_go_with_the_plan() {
    run(async {
        let mut world = World::new([127, 77, 0, 1]);
        assert!(refused(&world.get(PORT).await));
        world.plan(&[check("web", PORT, 2)]);
        let answer = world.get(PORT).await.unwrap();
        assert!(answer.starts_with("http/1.1 200 ok\r\n"), "{answer}");
        for part in [
            "content-type: application/json\r\n",
            "x-content-type-options: nosniff\r\n",
            "x-load-balancing-endpoint-weight: 2\r\n",
            r#"{"service":{"namespace":"default","name":"web"},"localendpoints":2,"serviceproxyhealthy":true}"#,
        ] {
            assert!(answer.contains(part), "no {part} in {answer}");
        }

        world.plan(&[check("web", PORT, 0)]);
        let answer = world.get(PORT).await.unwrap();
        assert!(answer.starts_with("http/1.1 503 ") && answer.contains(r#""localendpoints":0"#), "{answer}");
        assert!(answer.contains("endpoint-weight: 0\r\n"), "{answer}");

        // The port goes over to another Service without a moment in between; a second port comes.
        world.plan(&[check("other", PORT, 1), check("web", PORT + 1, 1)]);
        assert!(world.get(PORT).await.unwrap().contains(r#""name":"other""#));
        assert!(world.get(PORT + 1).await.unwrap().contains(r#""name":"web""#));

        world.plan(&[check("web", PORT + 1, 1)]);
        assert!(refused(&world.get(PORT).await));
        assert!(world.get(PORT + 1).await.is_ok());
        world.plan(&[]);
        assert!(refused(&world.get(PORT + 1).await));
        world.plan(&[check("web", PORT, 1)]);
        assert!(world.get(PORT).await.is_ok(), "the port is free again");
    });
}

/// A datapath that does not serve the plan yet must not get traffic, whatever endpoints there are.
#[test]
fn an_agent_that_is_not_ready_says_so() {
    run(async {
        let mut world = World::new([127, 77, 0, 2]);
        world.plan.borrow_mut().1 = false;
        world.plan(&[check("web", PORT, 3)]);
        let answer = world.get(PORT).await.unwrap();
        assert!(answer.starts_with("http/1.1 503 ") && answer.contains(r#""localendpoints":3"#), "{answer}");
        assert!(answer.contains(r#""serviceproxyhealthy":false"#), "{answer}");
    });
}

#[test]
fn a_port_in_use_is_told_and_taken_later() {
    run(async {
        let mut world = World::new([127, 77, 0, 3]);
        let holder = std::net::TcpListener::bind((world.address, PORT)).unwrap();
        world.plan(&[check("web", PORT, 1), check("other", PORT + 1, 1)]);
        let failures: Vec<&String> = world.checks.failures().collect();
        let [failure] = failures[..] else { panic!("{failures:?}") };
        for part in ["service default/web", "healthCheckNodePort 32100", "127.77.0.3:32100", "in use", "ss -ltnp"] {
            assert!(failure.contains(part), "no {part} in {failure}");
        }
        world.checks.retry();
        assert_eq!(world.checks.failures().count(), 1);
        assert!(world.get(PORT + 1).await.is_ok(), "the others are served");
        drop(holder);
        world.checks.retry();
        assert_eq!(world.checks.failures().count(), 0);
        assert!(world.get(PORT).await.unwrap().contains(r#""name":"web""#));
    });
}

/// An address that this machine does not have is listened at all the same: it may come, or be translated on the way.
#[test]
fn an_address_need_not_be_there() {
    run(async {
        let mut world = World::new([192, 0, 2, 77]);
        world.plan(&[check("web", PORT, 1)]);
        assert_eq!(world.checks.failures().next(), None);
        world.address = "2001:db8::77".parse().unwrap();
        world.plan(&[check("web", PORT, 1)]);
        assert_eq!(world.checks.failures().next(), None);
        assert_eq!(world.checks.listening.len(), 1);
    });
}
