//! `cargo xtask build-ebpf`: the one way to build the BPF object. It never installs a tool.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    bpf_toolchain::{self, Compiler, TARGET},
    process, strip,
};

/// Builds the object and returns its path, `target/bpf/berrylb.o`, where the agent's build script looks for it.
///
/// # Errors
/// When a tool is missing (the message says which command brings it) or the build fails.
pub(crate) fn build() -> Result<PathBuf> {
    let compiler = Compiler::find()?;
    let linker = bpf_toolchain::find_linker()?;
    process::run(compiler.cargo_build(&linker)?.args(["--bin", "berrylb-ebpf"]))?;
    let out = process::workspace_root().join("target/bpf");
    let object = out.join("berrylb.o");
    let linked = out.join(TARGET).join("release/berrylb-ebpf");
    let linked = fs::read(&linked).with_context(|| format!("read {}", linked.display()))?;
    write_if_changed(&strip::strip_debug(&linked)?, &object)?;
    Ok(object)
}

/// Leaves an equal file alone, so that its time stamp does not make cargo rebuild the agent; replaces it as a whole, so
/// that a build that runs at the same time never reads half an object.
fn write_if_changed(new: &[u8], to: &Path) -> Result<()> {
    match fs::read(to) {
        Ok(old) if old == new => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", to.display())),
    }
    let part = to.with_extension(format!("o.{}", std::process::id()));
    fs::write(&part, new).with_context(|| format!("write {}", part.display()))?;
    fs::rename(&part, to).with_context(|| format!("rename {} to {}", part.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_keeps_its_time_stamp() {
        let dir = std::env::temp_dir().join(format!("berrylb-xtask-write-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("create a folder");
        let to = dir.join("berrylb.o");
        write_if_changed(b"one", &to).expect("first");
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&to).and_then(|file| file.set_modified(old)).expect("set time");

        write_if_changed(b"one", &to).expect("equal");
        assert_eq!(fs::metadata(&to).and_then(|meta| meta.modified()).expect("stat"), old);

        write_if_changed(b"two", &to).expect("changed");
        assert_eq!(fs::read(&to).expect("read"), b"two");
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 1, "no part is left behind");
        fs::remove_dir_all(&dir).expect("remove");
    }
}
