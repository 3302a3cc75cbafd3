//! The script by which a person enters a lab's nodes and pods: `sh /run/berrylb-lab/LAB/enter NAME [COMMAND…]`.
//!
//! `nsenter` alone would leave the shell in its own cgroup, where the node's socket hooks do not see it. Programs in the
//! lab's folder `bin` are found by their names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{netns::NETNS_DIR, reaper::BPFFS};

/// Writes the script into the lab's folder and gives its path.
pub(crate) fn write(lab: &str, folder: &Path, cgroup: &Path) -> Result<PathBuf> {
    let path = folder.join("enter");
    let (folder, cgroup) = (folder.display(), cgroup.display());
    let bpffs = BPFFS;
    let text = format!(
        r#"# Runs a shell or a command on a node, in a pod, on the router or outside: sh enter NAME [COMMAND...]
if [ $# -eq 0 ]; then
    echo "usage: sh enter NAME [COMMAND...]; NAME is one of:" >&2
    ls {NETNS_DIR} | sed -n 's/^{lab}-/  /p' | sed 's/^  lan$/  router/' >&2
    exit 2
fi
name=$1
shift
[ $# -gt 0 ] || set -- "${{SHELL:-sh}}"
net={NETNS_DIR}/{lab}-$name
[ "$name" != router ] || net={NETNS_DIR}/{lab}-lan
for group in {cgroup}/"$name"/host {cgroup}/*/pod-"$name" {cgroup}/"$name"; do
    if [ -e "$group/cgroup.procs" ] && [ -e "$net" ]; then
        echo $$ > "$group/cgroup.procs" || exit 1
        export PATH="{folder}/bin:$PATH"
        # Where nobody runs an agent as well, so that berrylb never looks at the machine's own.
        export BERRYLB_BPFFS={bpffs}/{lab}-"$name" BERRYLB_CGROUP={cgroup}/"$name"
        export BERRYLB_API_SOCKET={folder}/"$name"/agent.sock
        resolv={folder}/pod-$name/resolv.conf
        if [ -e "$resolv" ]; then
            exec nsenter --net="$net" unshare --mount sh -c \
                'mount --bind "$0" /etc/resolv.conf && exec "$@"' "$resolv" "$@"
        fi
        exec nsenter --net="$net" "$@"
    fi
done
echo "enter: lab {lab} has no node, pod or machine $name; \`sh $0\` without a name lists them" >&2
exit 2
"#
    );
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
