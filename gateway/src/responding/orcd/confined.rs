//! The confinement of the drawing process: what it can no longer do once the first byte of an object is read.
//!
//! A decoder that an object takes over reads its input, uses memory and processor time within limits, writes to its output
//! and ends. Everything else that it asks the kernel for ends it: it has no files, no network, no other processes or
//! threads, no signals for anybody else, no capabilities, and is never root.
//!
//! Only whole processes are confined. A filter on a thread would confine nothing, because threads share their memory: that
//! is why decoders of pixels run here and not in the gateway.

use std::collections::BTreeMap;
use std::process::ExitStatus;

use rustix::process::{Gid, Resource, Rlimit, Uid, geteuid, getpid, getuid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// User and group `nobody`, which a process that was started as root becomes.
const NOBODY: u32 = 65_534;
const MEMORY: u64 = 2 << 30;
const SECONDS: u64 = 15;
/// System calls of a decoder, whatever their arguments: memory, locks, and its end.
const CALLS: [i64; 15] = [
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Why a process is not confined. It must then not read anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unconfined {
    /// The process is root and cannot become somebody else.
    #[error("it would run as root: start the gateway as an unprivileged user, or let it change to user 65534")]
    Root,
    /// The kernel refuses a limit, the end of the capabilities, or the filter.
    #[error(
        "the kernel refuses limits or the filter of system calls: it needs Linux with seccomp on x86_64, aarch64 or \
         riscv64, and a unit or container that allows setrlimit, capset, prctl and seccomp"
    )]
    Refused,
}

/// Confines this process for good. It must have one thread, which is the caller.
///
/// # Errors
/// The process is not confined; some of its rights may be gone.
pub fn confine() -> Result<(), Unconfined> {
    leave_root()?;
    limit()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    )
    .map_err(|_| Unconfined::Refused)?;
    // The pool of the JPEG decoder is this thread alone. Otherwise it starts a thread for each colour.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    pool.map_err(|_| Unconfined::Refused)?;
    let filter = filter().map_err(|_| Unconfined::Refused)?;
    // Sets `no_new_privs` too, without which the kernel takes no filter.
    apply_filter(&filter).map_err(|_| Unconfined::Refused)
}

/// Whether a process was ended because it asked the kernel for what the confinement does not allow.
pub fn overstepped(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(libc::SIGSYS)
}

/// A root process becomes `nobody`, with no other groups.
fn leave_root() -> Result<(), Unconfined> {
    let is_root = || getuid().is_root() || geteuid().is_root();
    if is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(group, group, group))
            .and_then(|()| set_thread_res_uid(user, user, user))
            .map_err(|_| Unconfined::Root)?;
    }
    if is_root() { Err(Unconfined::Root) } else { Ok(()) }
}

fn limit() -> Result<(), Unconfined> {
    for (resource, most) in [
        (Resource::As, MEMORY),
        (Resource::Cpu, SECONDS),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        // Files that are open stay open; none can be opened any more.
        (Resource::Nofile, 0),
        (Resource::Nproc, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).map_err(|_| Unconfined::Refused)?;
    }
    Ok(())
}

/// What is not allowed ends the process at once, so that it is seen and not tried again in another way.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules()?, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?.try_into()
}

/// The allowed system calls, some with conditions on their arguments.
fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.into_iter().map(|call| (call, Vec::new())).collect();
    // Standard input is read, standard output and error are written; what else may be open is not touched.
    let stream = |stream: i32| SeccompRule::new(vec![argument(0, SeccompCmpOp::Eq, stream as u64)?]);
    rules.insert(libc::SYS_read, vec![stream(libc::STDIN_FILENO)?]);
    rules.insert(libc::SYS_write, vec![stream(libc::STDOUT_FILENO)?, stream(libc::STDERR_FILENO)?]);
    // Memory that can be written or read, never executed.
    let executable = libc::PROT_EXEC as u64;
    let data = || argument(2, SeccompCmpOp::MaskedEq(executable), 0);
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![data()?])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![data()?])?]);
    // `abort`: where memory has run out, the process ends itself.
    let itself = getpid().as_raw_nonzero().get() as u64;
    let abort = vec![argument(0, SeccompCmpOp::Eq, itself)?, argument(2, SeccompCmpOp::Eq, libc::SIGABRT as u64)?];
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(abort)?]);
    Ok(rules)
}

fn argument(at: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(at, SeccompCmpArgLen::Dword, is, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calls that no safe function makes are not tried (`gateway/tests/confinement.rs` tries the others).
    #[test]
    fn se_19_nothing_but_decoding_is_allowed() {
        let rules = rules().expect("rules");
        let conditions = [libc::SYS_read, libc::SYS_write, libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_tgkill];
        assert_eq!(rules.len(), CALLS.len() + conditions.len());
        assert!(conditions.iter().all(|call| !rules[call].is_empty()));
        for call in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_execveat,
            libc::SYS_openat2,
            libc::SYS_io_uring_setup,
            libc::SYS_bpf,
            libc::SYS_prctl,
            libc::SYS_prlimit64,
            libc::SYS_ioctl,
        ] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}
