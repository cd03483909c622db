//! Paths to descriptors that convey a place and no access.

use std::os::fd::OwnedFd;

use portcullis_core::OsText;
use portcullis_core::descriptor::DescriptorKind;
use portcullis_core::mechanism::OpenError;
use rustix::fs::{Mode, OFlags, fstat, open};

/// Opens `path` with `O_PATH` and says what it is; `what` names its purpose in errors.
pub(crate) fn open_path(
    what: &'static str,
    path: &OsText,
) -> Result<(OwnedFd, DescriptorKind), OpenError> {
    let error = |errno: rustix::io::Errno| OpenError::path(what, path.as_os_str())(errno.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = open(path.as_os_str(), flags, Mode::empty()).map_err(error)?;
    let mode = fstat(&fd).map_err(error)?.st_mode;
    let kind = DescriptorKind::from_mode(mode).ok_or_else(|| {
        let path = path.as_os_str();
        OpenError::Unusable(format!(
            "{what} {path:?} is a device, which a plan can't declare; grant its directory instead"
        ))
    })?;
    Ok((fd, kind))
}
