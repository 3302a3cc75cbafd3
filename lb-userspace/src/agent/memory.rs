//! Memory that nobody uses any more, back to the kernel: reading a whole cluster takes much more for a moment than what is
//! kept of it, and a start takes most of the program, of which little runs afterwards.

use std::{io, time::Duration};

/// Services that change together from which on there is something to give back.
const MANY: usize = 500;

/// After work on so many Services at once.
pub(super) fn give_back_after(services: usize) {
    if services >= MANY {
        give_back();
    }
}

/// How long after an agent got ready what it did for that is over, and what it does from then on has begun.
pub(super) const SETTLED: Duration = Duration::from_secs(2);

/// Takes some milliseconds with tens of thousands of Services.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: takes a number, and touches only memory that is not in use.
    let given = unsafe { libc::malloc_trim(0) };
    tracing::debug!(given, "free memory given back");
}

/// Other C libraries do it by themselves, or cannot.
#[cfg(not(target_env = "gnu"))]
pub(super) const fn give_back() {}

/// Lets go of the program's own pages, of which loading the programs and reading the configuration took most: what is
/// needed again comes back from the page cache as it is touched, and the rest is the kernel's to reclaim before anything
/// that is in use.
pub(super) fn let_go_of_program() {
    // SAFETY: takes a number and gives one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else { return };
    let mut bytes = 0;
    for (start, end) in constant_segments() {
        // A page that another segment shares stays.
        let (start, end) = (start.next_multiple_of(page), end / page * page);
        if start < end {
            // SAFETY: the pages of a segment that is never written to are the file's, and come back from it unchanged.
            let done = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
            if done == 0 {
                bytes += end - start;
            } else {
                // Pages that somebody has locked stay: they cost memory and nothing else.
                tracing::debug!("pages of the program are not let go of: {}", io::Error::last_os_error());
            }
        }
    }
    tracing::debug!(bytes, "pages of the program let go of");
}

/// Where the program's segments that nobody can write to are: code and constants.
fn constant_segments() -> Vec<(usize, usize)> {
    /// Called with the program itself first; then it asks for no more.
    extern "C" fn first(info: *mut libc::dl_phdr_info, _size: usize, found: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the C library hands over a valid description for the time of the call, and what `constant_segments` gave it.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<(usize, usize)>>()) };
        // SAFETY: so many headers stand there, for as long as the program runs.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let constant = headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0);
        found.extend(constant.filter_map(|header| {
            let start = usize::try_from(info.dlpi_addr.checked_add(header.p_vaddr)?).ok()?;
            Some((start, start.checked_add(usize::try_from(header.p_memsz).ok()?)?))
        }));
        1
    }
    let mut found: Vec<(usize, usize)> = Vec::new();
    // SAFETY: `first` takes what it is given here, and `found` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast()) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_goes_on_without_its_pages() {
        let code = let_go_of_program as *const () as usize;
        let constant = "a constant text that is in no register".as_ptr() as usize;
        let segments = constant_segments();
        for address in [code, constant] {
            assert!(
                segments.iter().any(|(start, end)| (*start..*end).contains(&address)),
                "{address:#x} {segments:x?}"
            );
        }
        let variable = &raw const MARK as usize;
        assert!(!segments.iter().any(|(start, end)| (*start..*end).contains(&variable)), "{variable:#x} {segments:x?}");
        MARK.store(7, std::sync::atomic::Ordering::Relaxed);
        let before = file_pages();
        let_go_of_program();
        assert!(file_pages() < before, "{before} pages of files before");
        assert_eq!(MARK.load(std::sync::atomic::Ordering::Relaxed), 7);
    }

    static MARK: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

    /// Resident pages of files (`/proc/PID/statm`, third number).
    fn file_pages() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(2).unwrap().parse().unwrap()
    }
}
