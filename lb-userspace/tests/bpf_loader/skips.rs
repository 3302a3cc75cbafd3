//! Programs that look for skipped cgroups: at the levels of the hierarchy that the patterns mean, wherever `--cgroup` is.

use std::fs;

use berrylb::loader::host::Cgroup;
use nix::mount::{MsFlags, mount};

use crate::support::{load, on_ground, try_load};

#[test]
fn a_cgroup_knows_its_level_only_where_the_root_is_mounted() {
    on_ground(|ground| {
        let level = |path| Cgroup::open(Some(path)).expect("a cgroup").level();
        let outer = level(&ground.cgroup).expect("a level");
        let inner = ground.cgroup.join("inner");
        fs::create_dir(&inner).expect("make a cgroup");
        assert_eq!(level(&inner).expect("a level"), outer + 1);

        // As in a container that sees a part of the hierarchy only.
        let part = tempfile::tempdir().expect("a folder");
        mount(Some(&ground.cgroup), part.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mounted");
        let error = level(&part.path().join("inner")).expect_err("the root is not to be seen").to_string();
        assert!(error.contains("--socket-lb-skip-cgroups"), "{error}");
        let mut options = ground.options();
        options.cgroup = Some(part.path().to_owned());
        load(&options);
        options.skip_cgroups = 0b10;
        assert!(try_load(&options).is_err());
        fs::remove_dir(&inner).expect("remove the cgroup");
    });
}

#[test]
fn programs_load_with_every_level_that_they_can_look_at() {
    on_ground(|ground| {
        let mut options = ground.options();
        let level = Cgroup::open(Some(&ground.cgroup)).expect("a cgroup").level().expect("a level");
        // All that are below the folder, down to level 31.
        options.skip_cgroups = (u32::MAX >> level) & !1;
        options.skip_netns = true;
        load(&options).attach_sockets().expect("attach");
        options.skip_cgroups = u32::MAX;
        if level > 0 {
            let error = try_load(&options).expect_err("deeper than a level has a bit").to_string();
            assert!(error.contains("31 levels"), "{error}");
        }
    });
}
