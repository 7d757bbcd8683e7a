//! The memory of the control group (cgroup) that the process is in, version 1 or 2.

use std::fs;
use std::path::Path;

use crate::net::memory::MemoryFigures;

/// Where the control groups are mounted.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// The names that one version of the memory controller has for its files and numbers.
struct ControllerFiles {
    limit: &'static str,
    used: &'static str,
    /// File cache that the kernel drops before it kills a process, in `memory.stat`.
    droppable: [&'static str; 2],
}

const V1: ControllerFiles = ControllerFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: ["total_inactive_file", "total_active_file"],
};

const V2: ControllerFiles = ControllerFiles {
    limit: "memory.max",
    used: "memory.current",
    droppable: ["inactive_file", "active_file"],
};

/// Version 1 writes the largest number of pages instead of "no limit".
const UNLIMITED: u64 = 1 << 60;

/// The memory of the group with the lowest limit among the process's own and those around it. The process
/// is in the groups that `membership`, the content of `/proc/self/cgroup`, names; they are below `root`.
pub(super) fn memory(membership: &str, root: &Path) -> Option<MemoryFigures> {
    let mut unified = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.split(',').any(|name| name == "memory") {
            return lowest(&root.join("memory"), path, &V1);
        }
        if controllers.is_empty() {
            unified = Some(path);
        }
    }
    // With version 1 beside it, the hierarchy of version 2 is in a folder of its own.
    let own = root.join("unified");
    let mount = if own.is_dir() { &own } else { root };
    lowest(mount, unified?, &V2)
}

fn lowest(mount: &Path, path: &str, names: &ControllerFiles) -> Option<MemoryFigures> {
    let group = mount.join(path.trim_start_matches('/'));
    // In a container, the path may be that on the host, while the mount shows the container's own group.
    let is_shown = !path.contains("..") && group.is_dir();
    let group = if is_shown { &group } else { mount };
    let groups = group.ancestors().take_while(|it| it.starts_with(mount));
    let limited = groups.filter_map(|group| Some((limit(group, names)?, group)));
    let (limit, group) = limited.min_by_key(|(limit, _)| *limit)?;
    let used = number(&group.join(names.used))?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let droppable = stat.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        let is_droppable = names.droppable.contains(&name);
        bytes.parse::<u64>().ok().filter(|_| is_droppable)
    });
    let used = used.saturating_sub(droppable.sum());
    Some(MemoryFigures { limit, used })
}

fn limit(group: &Path, names: &ControllerFiles) -> Option<u64> {
    number(&group.join(names.limit)).filter(|limit| (1..UNLIMITED).contains(limit))
}

/// The number in a file; `None` for "max" and where there is no such file.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A tree of groups: for each its path, its limit, its use and the droppable part of that.
    fn tree(
        names: &ControllerFiles,
        groups: &[(&str, &str, u64, u64)],
    ) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for (path, limit, used, droppable) in groups {
            let group = folder.path().join(path);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(names.limit), format!("{limit}\n")).unwrap();
            fs::write(group.join(names.used), format!("{used}\n")).unwrap();
            let [inactive, active] = names.droppable;
            let (old, recent) = (droppable - droppable / 4, droppable / 4);
            let stat = format!("anon 77\n{inactive} {old}\nslab 7\n{active} {recent}\n");
            fs::write(group.join("memory.stat"), stat).unwrap();
        }
        let root = folder.path().to_owned();
        (folder, root)
    }

    #[test]
    fn the_lowest_limit_counts_with_the_use_of_its_group() {
        let found = |limit, used| Some(MemoryFigures { limit, used });
        let (_folder, root) = tree(
            &V2,
            &[
                ("", "9000", 8000, 0),
                ("a.slice", "5000", 4000, 1000),
                ("a.slice/b.service", "max", 2000, 100),
                ("c", "max", 1, 0),
            ],
        );
        for (membership, expected) in [
            ("0::/a.slice/b.service\n", found(5000, 3000)),
            ("0::/a.slice\n", found(5000, 3000)),
            ("0::/c\n", found(9000, 8000)),
            ("0::/\n", found(9000, 8000)),
            // A group that is not shown here, as in a container.
            ("0::/on/the/host\n", found(9000, 8000)),
            ("0::/../b\n", found(9000, 8000)),
            ("", None),
            ("nonsense\n", None),
        ] {
            assert_eq!(memory(membership, &root), expected, "{membership}");
        }
    }

    #[test]
    fn version_1_has_other_names_and_takes_precedence() {
        let huge = "9223372036854771712";
        let (_folder, root) = tree(
            &V1,
            &[
                ("memory", huge, 1, 0),
                ("memory/docker", "4096", 4000, 96),
                ("memory/docker/x", huge, 7, 0),
                ("unified", "1", 1, 0),
            ],
        );
        let membership = "9:name=systemd:/\n4:cpu,memory:/docker/x\n0::/\n";
        let expected = MemoryFigures {
            limit: 4096,
            used: 3904,
        };
        assert_eq!(memory(membership, &root), Some(expected));
        assert_eq!(memory("4:memory:/\n0::/\n", &root), None, "no limit");
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let (_folder, root) = tree(&V2, &[("", "max", 1, 0), ("a", "max", 1, 0)]);
        assert_eq!(memory("0::/a\n", &root), None);
        assert_eq!(memory("0::/a\n", Path::new("/nowhere")), None);
    }
}
