//! The lab's helper process: `session` is a peer inside a place, `reap LAB` removes a lab when its owner is gone,
//! `hold-lab` makes a lab and waits, for tests of what happens when an owner dies. Not meant to be run by hand.

use std::{
    env,
    io::{Read, Write},
};

use anyhow::{Context, Result, bail};
use lb_lab::{Host, Lab, peer};

fn main() -> Result<()> {
    if peer::main_if_asked()? {
        return Ok(());
    }
    match env::args().nth(1).as_deref() {
        Some("hold-lab") => hold_lab(),
        _ => bail!("usage: {} session | reap LAB | hold-lab", peer::PROGRAM),
    }
}

/// Makes a lab with a pod and a process in it, says its name, and waits for the end of standard input.
fn hold_lab() -> Result<()> {
    let lab = Lab::story()?;
    let pod = lab.node("raspi002").add_pod("sample")?;
    let _sleeper = pod.command("sleep").arg("600").spawn("sleep")?;
    let mut output = std::io::stdout();
    writeln!(output, "{}", lab.name()).and_then(|()| output.flush()).context("say the lab's name")?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait")?;
    Ok(())
}
