//! A new agent takes over from one that is gone, under traffic: every packet and every call meets a program.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aya::{
    programs::{ProgramFd, ProgramInfo, loaded_programs},
    sys::{Stats, enable_stats},
};
use berrylb::{
    loader::{LinkPin, TcHook},
    net::LinkKind,
};
use lb_common::abi::program;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{OtherNs, attached, link_id, load, on_ground, pins, pod, program_id, role, tc};

/// Counts runs of programs that may be replaced meanwhile: holds each open, so that its count stays.
struct Runs(Vec<(u32, ProgramFd)>);

impl Runs {
    fn note(&mut self, id: u32) {
        let info = Self::find(id);
        self.0.push((id, info.fd().expect("a descriptor")));
    }

    fn find(id: u32) -> ProgramInfo {
        loaded_programs().flatten().find(|info| info.id() == id).expect("the program is loaded")
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(id, _)| Self::find(*id).run_count()).sum()
    }
}

/// Packets that came in through a device.
fn received(name: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").expect("device counters");
    let line = table.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:"))).expect("the device");
    line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("a number")
}

fn restart_in_place(hook: TcHook) {
    on_ground(move |ground| {
        let _stats = enable_stats(Stats::RunTime).expect("count program runs");
        let other = Arc::new(OtherNs::new());
        let near = pod(&other, "near", 1);
        let pin = tc(program::POD_INGRESS, near);
        let mut options = ground.options();
        options.tc_hook = Some(hook);

        let mut runs = Runs(Vec::new());
        let mut datapath = load(&options);
        let before = received("near");
        datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach");
        assert_eq!(received("near"), before, "the link is quiet until now");
        runs.note(program_id(&datapath, pin));
        let link = link_id(&datapath, pin);
        assert_eq!(link.is_some(), hook == TcHook::Tcx);

        // One packet to and one fro at a time, so that no queue drops any.
        let echo = UdpSocket::bind("10.77.1.1:7000").expect("bind");
        echo.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let send = move || {
            let socket = UdpSocket::bind("10.77.1.2:0").expect("bind");
            socket.connect("10.77.1.1:7000").expect("connect");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
            let (mut count, mut buffer) = (0_u64, [0; 8]);
            while !stopped.load(Ordering::Relaxed) {
                socket.send(&count.to_be_bytes()).expect("send");
                socket.recv(&mut buffer).expect("an echo");
                count += 1;
            }
            count
        };
        let elsewhere = Arc::clone(&other);
        let sent = thread::spawn(move || elsewhere.run(send));
        let echoing = thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], from).expect("send");
            }
        });

        for _ in 0..3 {
            // What a crash comes to: the process lets go of everything.
            drop(datapath);
            datapath = load(&options);
            let adopted = datapath.adopt().expect("adopt");
            assert_eq!(adopted.removed, Vec::<String>::new());
            assert_eq!(pins(&adopted.kept), [tc(program::POD_EGRESS, near), pin]);
            let old = program_id(&datapath, pin);
            datapath.attach_link(&role(near, LinkKind::Pod)).expect("attach again");
            assert_eq!(link_id(&datapath, pin), link, "the link stays the same");
            let new = program_id(&datapath, pin);
            assert_ne!(new, old, "its program is replaced");
            runs.note(new);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sent.join().expect("a count");
        echoing.join().expect("the echo ends when nothing comes any more");
        assert!(sent > 100, "traffic flowed: {sent}");
        let packets = received("near") - before;
        assert!(packets >= sent);
        assert_eq!(runs.total(), packets, "every packet met a program");
    });
}

#[test]
fn a_restart_replaces_tcx_programs_under_traffic() {
    restart_in_place(TcHook::Tcx);
}

#[test]
fn a_restart_replaces_clsact_programs_under_traffic() {
    restart_in_place(TcHook::Clsact);
}

/// A child process that connects UDP sockets, one after the other, and does not outlive its test.
struct Connects {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Connects {
    /// Starts it inside a cgroup; it is at work when this returns.
    fn start(cgroup: &Path) -> Self {
        const SCRIPT: &str = r#"
            use Socket;
            my ($to, $stop, $count) = (pack_sockaddr_in(9, inet_aton("127.0.0.1")), 0, 0);
            $SIG{TERM} = sub { $stop = 1 };
            $| = 1;
            print "ready\n";
            until ($stop) {
                socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die $!;
                connect($socket, $to) or die $!;
                $count++;
            }
            print "$count\n";
        "#;
        let enter = format!("echo $$ > {}/cgroup.procs && exec perl -e \"$0\"", cgroup.display());
        let mut child =
            Command::new("sh").args(["-c", &enter, SCRIPT]).stdout(Stdio::piped()).spawn().expect("a child");
        let mut says = BufReader::new(child.stdout.take().expect("its output"));
        assert_eq!(line(&mut says), "ready");
        Self { child, says }
    }

    /// Ends it; how many sockets it connected.
    fn stop(mut self) -> u64 {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("tell it");
        line(&mut self.says).parse().expect("a number")
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    line.trim().to_owned()
}

impl Drop for Connects {
    fn drop(&mut self) {
        // It may have ended, which makes killing it an error of no interest.
        let _ended = self.child.kill();
        self.child.wait().expect("the child");
    }
}

#[test]
fn a_restart_replaces_socket_programs_under_load() {
    on_ground(|ground| {
        let _stats = enable_stats(Stats::RunTime).expect("count program runs");
        let pin = LinkPin::Socket("connect4");
        let mut runs = Runs(Vec::new());
        let mut datapath = load(&ground.options());
        datapath.attach_sockets().expect("attach");
        assert_eq!(attached(&datapath).len(), program::SOCKET.len());
        runs.note(program_id(&datapath, pin));
        let link = link_id(&datapath, pin);

        let connects = Connects::start(&ground.cgroup);
        for _ in 0..3 {
            drop(datapath);
            datapath = load(&ground.options());
            assert_eq!(datapath.adopt().expect("adopt").kept.len(), program::SOCKET.len());
            datapath.attach_sockets().expect("attach again");
            assert_eq!(link_id(&datapath, pin), link, "the link stays the same");
            runs.note(program_id(&datapath, pin));
        }
        let connected = connects.stop();
        assert!(connected > 1000, "{connected}");
        assert_eq!(runs.total(), connected, "every connect met a program");
    });
}
