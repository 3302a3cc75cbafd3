//! Real servers from Debian inside a pod or on a node: nginx, redis, dnsmasq.
//!
//! Each listens when its function returns, logs into the place's folder, and ends with the [`Process`].

use std::{
    fmt::Write,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{Command, Host, Process, patience::limit};

/// How long a server may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// nginx on port 80, IPv4 and IPv6, with a page that holds the host's name.
///
/// # Errors
/// nginx is not installed (`apt-get install nginx`) or does not start.
pub fn nginx(host: &impl Host) -> Result<Process> {
    let page = host.dir().join("nginx/html");
    fs::create_dir_all(&page).with_context(|| format!("create {}", page.display()))?;
    let index = page.join("index.html");
    fs::write(&index, format!("{}\n", host.name())).with_context(|| format!("write {}", index.display()))?;
    start_nginx(host, &format!("server {{ {} root {}; }}", listen(host), page.display()))
}

/// nginx on port 80 as an Ingress controller would set it up: requests for a host name go on to its address, for
/// others there is no page.
///
/// # Errors
/// nginx is not installed (`apt-get install nginx`) or does not start.
pub fn ingress(host: &impl Host, sites: &[(&str, SocketAddr)]) -> Result<Process> {
    let listen = listen(host);
    let mut servers = format!("server {{ {listen} return 404; }}\n");
    for (site, to) in sites {
        writeln!(servers, "server {{ {listen} server_name {site}; location / {{ proxy_pass http://{to}; }} }}")?;
    }
    start_nginx(host, &servers)
}

fn listen(host: &impl Host) -> &'static str {
    if host.place().has_ipv6() { "listen 80; listen [::]:80;" } else { "listen 80;" }
}

fn start_nginx(host: &impl Host, servers: &str) -> Result<Process> {
    let folder = host.dir().join("nginx");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let dir = folder.display();
    let text = format!(
        "daemon off;
         user root;
         worker_processes 1;
         pid {dir}/nginx.pid;
         error_log stderr warn;
         events {{ worker_connections 1024; }}
         http {{
             access_log {dir}/access.log;
             client_body_temp_path {dir}/body;
             proxy_temp_path {dir}/proxy;
             fastcgi_temp_path {dir}/fastcgi;
             uwsgi_temp_path {dir}/uwsgi;
             scgi_temp_path {dir}/scgi;
             {servers}
         }}\n"
    );
    let conf = folder.join("nginx.conf");
    fs::write(&conf, text).with_context(|| format!("write {}", conf.display()))?;
    start(host, host.command("nginx").arg("-e").arg("stderr").arg("-c").arg(&conf), "nginx", 80)
}

/// redis on port 6379, keeping nothing on disk.
///
/// # Errors
/// redis is not installed (`apt-get install redis-server`) or does not start.
pub fn redis(host: &impl Host) -> Result<Process> {
    let options = ["--port", "6379", "--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir"];
    start(host, host.command("redis-server").args(options).arg(host.dir()), "redis", 6379)
}

/// What a DNS server knows by itself.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Names with their addresses: A or AAAA, and PTR the other way.
    pub hosts: Vec<(String, IpAddr)>,
    /// SRV: name, target, port.
    pub services: Vec<(String, String, u16)>,
    /// CNAME: name and target, which must be one of `hosts`.
    pub aliases: Vec<(String, String)>,
    /// A domain that is never asked for elsewhere.
    pub domain: Option<String>,
    /// Where everything else is asked for.
    pub upstream: Option<IpAddr>,
}

/// dnsmasq on port 53, UDP and TCP.
///
/// # Errors
/// dnsmasq is not installed (`apt-get install dnsmasq-base`) or does not start.
pub fn dnsmasq(host: &impl Host, records: &Records) -> Result<Process> {
    let mut text =
        String::from("no-resolv\nno-hosts\nno-poll\nport=53\nuser=root\npid-file=\ncache-size=0\nlog-facility=-\n");
    for (name, address) in &records.hosts {
        writeln!(text, "host-record={name},{address}")?;
    }
    for (name, target, port) in &records.services {
        writeln!(text, "srv-host={name},{target},{port}")?;
    }
    for (name, target) in &records.aliases {
        writeln!(text, "cname={name},{target}")?;
    }
    if let Some(domain) = &records.domain {
        writeln!(text, "local=/{domain}/")?;
    }
    if let Some(upstream) = records.upstream {
        writeln!(text, "server={upstream}")?;
    }
    let conf = host.dir().join("dnsmasq.conf");
    fs::write(&conf, text).with_context(|| format!("write {}", conf.display()))?;
    // The only form dnsmasq takes: a value of its own is "junk found in command line".
    let conf_file = format!("--conf-file={}", conf.display());
    start(host, host.command("dnsmasq").arg("--keep-in-foreground").arg(conf_file), "dnsmasq", 53)
}

/// Starts a server and waits until its port takes connections on localhost.
fn start(host: &impl Host, command: Command, name: &str, port: u16) -> Result<Process> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let limit = limit(START_LIMIT);
    let is_open = || host.netns().enter(|| Ok(TcpStream::connect_timeout(&to, limit).is_ok()));
    if is_open()? {
        bail!("start {name} on {}: port {port} is taken there", host.name());
    }
    let mut process = command.spawn(name)?;
    let deadline = Instant::now() + limit;
    loop {
        if is_open()? {
            return Ok(process);
        }
        let why = match process.status()? {
            Some(status) => format!("it ended with {status}"),
            None if Instant::now() >= deadline => format!("it does not listen on port {port} after {limit:?}"),
            None => {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
        };
        bail!("start {name} on {}: {why}\n{}{}", host.name(), process.out()?, process.err()?);
    }
}
