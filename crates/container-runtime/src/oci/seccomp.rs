//! The default seccomp filter: what Docker and containerd let a container call, as far as this kernel interface knows it.
//! <https://docs.docker.com/engine/security/seccomp/>
//!
//! Everything else fails with EPERM. `clone3` fails with ENOSYS, so that C libraries fall back to `clone`, whose flags a filter
//! can see. Programs for another architecture than the machine's own (32-bit ones) are killed.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Allowed whatever the arguments.
const ALLOWED: &[i64] = &[
    SYS_accept,
    SYS_accept4,
    SYS_adjtimex,
    SYS_bind,
    SYS_brk,
    SYS_capget,
    SYS_capset,
    SYS_chdir,
    SYS_clock_adjtime,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_close_range,
    SYS_connect,
    SYS_copy_file_range,
    SYS_dup,
    SYS_dup3,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_eventfd2,
    SYS_execve,
    SYS_execveat,
    SYS_exit,
    SYS_exit_group,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fanotify_mark,
    SYS_fchdir,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fgetxattr,
    SYS_flistxattr,
    SYS_flock,
    SYS_fremovexattr,
    SYS_fsetxattr,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_futex,
    SYS_futex_waitv,
    SYS_getcpu,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getgroups,
    SYS_getitimer,
    SYS_getpeername,
    SYS_getpgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getpriority,
    SYS_getrandom,
    SYS_getresgid,
    SYS_getresuid,
    SYS_getrlimit,
    SYS_get_robust_list,
    SYS_getrusage,
    SYS_getsid,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_gettid,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_getxattr,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_io_cancel,
    SYS_ioctl,
    SYS_io_destroy,
    SYS_io_getevents,
    SYS_ioprio_get,
    SYS_ioprio_set,
    SYS_io_setup,
    SYS_io_submit,
    SYS_kill,
    SYS_landlock_add_rule,
    SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self,
    SYS_lgetxattr,
    SYS_linkat,
    SYS_listen,
    SYS_listxattr,
    SYS_llistxattr,
    SYS_lremovexattr,
    SYS_lseek,
    SYS_lsetxattr,
    SYS_madvise,
    SYS_membarrier,
    SYS_memfd_create,
    SYS_memfd_secret,
    SYS_mincore,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_mlock,
    SYS_mlock2,
    SYS_mlockall,
    SYS_mmap,
    SYS_mprotect,
    SYS_mq_getsetattr,
    SYS_mq_notify,
    SYS_mq_open,
    SYS_mq_timedreceive,
    SYS_mq_timedsend,
    SYS_mq_unlink,
    SYS_mremap,
    SYS_msgctl,
    SYS_msgget,
    SYS_msgrcv,
    SYS_msgsnd,
    SYS_msync,
    SYS_munlock,
    SYS_munlockall,
    SYS_munmap,
    SYS_name_to_handle_at,
    SYS_nanosleep,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pipe2,
    SYS_pkey_alloc,
    SYS_pkey_free,
    SYS_pkey_mprotect,
    SYS_ppoll,
    SYS_prctl,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_prlimit64,
    SYS_process_mrelease,
    SYS_pselect6,
    SYS_ptrace,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readahead,
    SYS_readlinkat,
    SYS_readv,
    SYS_recvfrom,
    SYS_recvmmsg,
    SYS_recvmsg,
    SYS_remap_file_pages,
    SYS_removexattr,
    SYS_renameat,
    SYS_renameat2,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigpending,
    SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo,
    SYS_rt_sigreturn,
    SYS_rt_sigsuspend,
    SYS_rt_sigtimedwait,
    SYS_rt_tgsigqueueinfo,
    SYS_sched_getaffinity,
    SYS_sched_getattr,
    SYS_sched_getparam,
    SYS_sched_get_priority_max,
    SYS_sched_get_priority_min,
    SYS_sched_getscheduler,
    SYS_sched_rr_get_interval,
    SYS_sched_setaffinity,
    SYS_sched_setattr,
    SYS_sched_setparam,
    SYS_sched_setscheduler,
    SYS_sched_yield,
    SYS_seccomp,
    SYS_semctl,
    SYS_semget,
    SYS_semop,
    SYS_semtimedop,
    SYS_sendfile,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setfsgid,
    SYS_setfsuid,
    SYS_setgid,
    SYS_setgroups,
    SYS_setitimer,
    SYS_setpgid,
    SYS_setpriority,
    SYS_setregid,
    SYS_setresgid,
    SYS_setresuid,
    SYS_setreuid,
    SYS_setrlimit,
    SYS_set_robust_list,
    SYS_setsid,
    SYS_setsockopt,
    SYS_set_tid_address,
    SYS_setuid,
    SYS_setxattr,
    SYS_shmat,
    SYS_shmctl,
    SYS_shmdt,
    SYS_shmget,
    SYS_shutdown,
    SYS_sigaltstack,
    SYS_signalfd4,
    SYS_socketpair,
    SYS_splice,
    SYS_statfs,
    SYS_statx,
    SYS_symlinkat,
    SYS_sync,
    SYS_sync_file_range,
    SYS_syncfs,
    SYS_sysinfo,
    SYS_tee,
    SYS_tgkill,
    SYS_timer_create,
    SYS_timer_delete,
    SYS_timer_getoverrun,
    SYS_timer_gettime,
    SYS_timer_settime,
    SYS_timerfd_create,
    SYS_timerfd_gettime,
    SYS_timerfd_settime,
    SYS_times,
    SYS_tkill,
    SYS_truncate,
    SYS_umask,
    SYS_uname,
    SYS_unlinkat,
    SYS_utimensat,
    SYS_vmsplice,
    SYS_wait4,
    SYS_waitid,
    SYS_write,
    SYS_writev,
];

/// Allowed as well; these exist on x86_64 only. 333 is io_pgetevents, which the C library does not name.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = &[
    333,
    SYS_access,
    SYS_alarm,
    SYS_chmod,
    SYS_chown,
    SYS_creat,
    SYS_dup2,
    SYS_epoll_create,
    SYS_epoll_ctl_old,
    SYS_epoll_wait,
    SYS_epoll_wait_old,
    SYS_eventfd,
    SYS_fork,
    SYS_futimesat,
    SYS_getdents,
    SYS_getpgrp,
    SYS_get_thread_area,
    SYS_inotify_init,
    SYS_lchown,
    SYS_link,
    SYS_lstat,
    SYS_mkdir,
    SYS_mknod,
    SYS_open,
    SYS_pause,
    SYS_pipe,
    SYS_poll,
    SYS_readlink,
    SYS_rename,
    SYS_rmdir,
    SYS_select,
    SYS_set_thread_area,
    SYS_signalfd,
    SYS_stat,
    SYS_symlink,
    SYS_time,
    SYS_unlink,
    SYS_utime,
    SYS_utimes,
    SYS_vfork,
    SYS_arch_prctl,
    SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

/// Newer than the C library's headers; from 424 on the numbers are the same everywhere. cachestat, fchmodat2,
/// map_shadow_stack, futex_wake, futex_wait, futex_requeue, {set,get,list,remove}xattrat.
const ALLOWED_BY_NUMBER: [i64; 10] = [451, 452, 453, 454, 455, 456, 463, 464, 465, 466];

/// Allowed to those who have the capability.
const BY_CAPABILITY: &[(&str, &[i64])] = &[
    ("DAC_READ_SEARCH", &[SYS_open_by_handle_at]),
    (
        "SYS_ADMIN",
        &[
            SYS_bpf,
            SYS_clone,
            SYS_clone3,
            SYS_fanotify_init,
            SYS_fsconfig,
            SYS_fsmount,
            SYS_fsopen,
            SYS_fspick,
            SYS_mount,
            SYS_mount_setattr,
            SYS_move_mount,
            SYS_open_tree,
            SYS_perf_event_open,
            SYS_quotactl,
            SYS_quotactl_fd,
            SYS_setdomainname,
            SYS_sethostname,
            SYS_setns,
            SYS_syslog,
            SYS_umount2,
            SYS_unshare,
            SYS_pivot_root,
        ],
    ),
    ("SYS_BOOT", &[SYS_reboot]),
    ("SYS_CHROOT", &[SYS_chroot]),
    ("SYS_MODULE", &[SYS_delete_module, SYS_init_module, SYS_finit_module]),
    ("SYS_PACCT", &[SYS_acct]),
    ("SYS_PTRACE", &[SYS_kcmp, SYS_pidfd_getfd, SYS_process_madvise, SYS_process_vm_readv, SYS_process_vm_writev]),
    ("SYS_TIME", &[SYS_settimeofday, SYS_clock_settime]),
    ("SYS_TTY_CONFIG", &[SYS_vhangup]),
    ("SYS_NICE", &[SYS_get_mempolicy, SYS_mbind, SYS_set_mempolicy, SYS_set_mempolicy_home_node]),
    ("SYSLOG", &[SYS_syslog]),
    ("BPF", &[SYS_bpf]),
    ("PERFMON", &[SYS_perf_event_open]),
    #[cfg(target_arch = "x86_64")]
    ("SYS_RAWIO", &[SYS_iopl, SYS_ioperm]),
];

/// The flags of clone that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Execution domains that programs ask for: Linux, 16-bit uid, no randomisation, both, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Loads the default filter into this process, which must still have CAP_SYS_ADMIN. `capabilities` are those that the
/// container will have, without the `CAP_` prefix.
pub(super) fn load_default(capabilities: &[String]) -> Result<(), String> {
    for program in programs(capabilities).map_err(|error| format!("seccomp filter: {error}"))? {
        load(&program).map_err(|error| format!("loading the seccomp filter: {}", error.desc()))?;
    }
    Ok(())
}

fn programs(capabilities: &[String]) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let compile = |rules, otherwise, matched| SeccompFilter::new(rules, otherwise, matched, arch)?.try_into();
    let refuse = SeccompAction::Errno(EPERM as u32);
    let mut programs = vec![compile(allow_rules(capabilities)?, refuse, SeccompAction::Allow)?];
    if !capabilities.iter().any(|name| name == "SYS_ADMIN") {
        // Of several filters the strictest decides.
        let missing = SeccompAction::Errno(ENOSYS as u32);
        programs.push(compile(BTreeMap::from([(SYS_clone3, Vec::new())]), SeccompAction::Allow, missing)?);
    }
    Ok(programs)
}

fn allow_rules(capabilities: &[String]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let rule = |argument, operation, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)?])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for number in ALLOWED.iter().chain(ALLOWED_HERE).chain(&ALLOWED_BY_NUMBER) {
        rules.insert(*number, Vec::new());
    }
    // A socket to the hypervisor leaves every network namespace.
    rules.insert(SYS_socket, vec![rule(0, SeccompCmpOp::Ne, AF_VSOCK as u64)?]);
    rules.insert(SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)?]);
    rules.insert(SYS_clone3, Vec::new());
    let personalities = PERSONALITIES.iter().map(|value| rule(0, SeccompCmpOp::Eq, *value));
    rules.insert(SYS_personality, personalities.collect::<Result<_, _>>()?);
    for (_, numbers) in BY_CAPABILITY.iter().filter(|(name, _)| capabilities.iter().any(|capability| capability == name)) {
        numbers.iter().for_each(|number| drop(rules.insert(*number, Vec::new())));
    }
    Ok(rules)
}

/// Like seccompiler's own, but without `no_new_privs`: that is the pod's decision.
fn load(program: &BpfProgram) -> nix::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| nix::errno::Errno::E2BIG)?;
    let filter = sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program, whose length is its own; sock_filter has the kernel's layout in both crates.
    #[allow(unsafe_code)]
    nix::errno::Errno::result(unsafe { syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(capabilities: &[&str], number: i64, expected: bool) {
        let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
        let rules = allow_rules(&capabilities).expect("rules");
        assert_eq!(rules.contains_key(&number), expected, "{capabilities:?} {number}");
        assert!(!programs(&capabilities).expect("programs").is_empty());
    }

    #[test]
    fn capabilities_open_system_calls() {
        check(&[], SYS_read, true);
        check(&[], SYS_mount, false);
        check(&["SYS_ADMIN"], SYS_mount, true);
        check(&["CHOWN"], SYS_unshare, false);
        check(&["SYS_TIME"], SYS_clock_settime, true);
        check(&[], SYS_keyctl, false);
    }
}
