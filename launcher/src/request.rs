//! What a resident launcher is asked for: a message, and the fds that came with it.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::vec;

use portcullis_core::mechanism::Fault;
use portcullis_core::message::{Asks, LaunchMessage, MAX_FDS, MAX_LEN};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::kept::{Kept, KeptLaunch};

/// A launch to make, or to keep.
pub(crate) struct Request {
    /// The control channel's number.
    pub(crate) control: RawFd,
    /// What it is made of.
    pub(crate) makings: Makings,
    /// The workload's standard input, output and error; none of a launch that is to be kept.
    pub(crate) stdio: Vec<OwnedFd>,
    /// The workload's working directory, where it is not the launcher's.
    pub(crate) directory: Option<OwnedFd>,
    /// Whether it is noted how long the stages take.
    pub(crate) trace: bool,
    /// Whether nothing need be told before the workload's end.
    pub(crate) at_end: bool,
}

/// What a launch is made of.
pub(crate) enum Makings {
    /// What came with the message.
    Handed(Handed),
    /// What came with the message, to be kept by this number.
    ToKeep(u32, Handed),
    /// What was kept before.
    Kept(Rc<KeptLaunch>),
}

/// A plan and what it names, as they came.
pub(crate) struct Handed {
    pub(crate) plan: OwnedFd,
    /// The fds of the slots. They had other numbers where they came from: here those are names.
    pub(crate) slots: BTreeMap<u32, OwnedFd>,
}

/// A message as it came.
pub(crate) struct Received {
    bytes: Vec<u8>,
    whole: ReturnFlags,
    count: usize,
    fds: vec::IntoIter<OwnedFd>,
}

impl Received {
    /// Takes a message from a socket, if there is one.
    ///
    /// # Errors
    ///
    /// Those of [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html).
    pub(crate) fn from(socket: impl AsFd) -> Result<Self, Errno> {
        let mut bytes = [0; MAX_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut into = [IoSliceMut::new(&mut bytes)];
        let message = recvmsg(socket, &mut into, &mut ancillary, flags)?;
        let mut fds = Vec::new();
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        let bytes = bytes[..message.bytes].to_vec();
        Ok(Self { bytes, whole: message.flags, count: fds.len(), fds: fds.into_iter() })
    }

    /// Whether it holds nothing at all, as the end of a stream of messages does.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.count == 0
    }

    /// The control channel, which is the first of its fds.
    pub(crate) fn control(&mut self) -> Option<OwnedFd> {
        self.fds.next()
    }

    /// The number of what is to be kept no longer, where that is what it asks: there is nothing to tell of it.
    pub(crate) fn forgets(&self) -> Option<u32> {
        let message =
            (self.count == 0).then(|| LaunchMessage::decode(&self.bytes).ok()).flatten()?;
        if let Asks::Forget(number) = message.asks { Some(number) } else { None }
    }

    /// What is asked for on that control channel.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that says what is wrong with the message.
    pub(crate) fn request(mut self, control: RawFd, kept: &Kept) -> Result<Request, Fault> {
        let fault = |what: String| Fault { what: format!("the message: {what}"), note: None };
        if self.whole.contains(ReturnFlags::TRUNC) {
            return Err(fault(format!("it is longer than {MAX_LEN} bytes")));
        }
        if self.whole.contains(ReturnFlags::CTRUNC) {
            let what =
                "some of its fds are lost, for this process may have no more (RLIMIT_NOFILE)";
            return Err(fault(what.into()));
        }
        let LaunchMessage { asks, trace, directory, at_end, slots } = {
            let message = LaunchMessage::decode(&self.bytes).map_err(|it| fault(it.to_string()))?;
            let (needed, found) = (message.fds(), self.count);
            if needed != found {
                return Err(fault(format!("it has {found} fds where {needed} are needed")));
            }
            message
        };
        let mut next = || self.fds.next().ok_or_else(|| fault("it has too few fds".into()));
        let plan = if let Asks::Launch | Asks::Keep(_) = asks { Some(next()?) } else { None };
        let stdio = match asks {
            Asks::Launch | Asks::Kept(_) => vec![next()?, next()?, next()?],
            Asks::Keep(_) | Asks::Forget(_) => Vec::new(),
        };
        let directory = if directory { Some(next()?) } else { None };
        let mut named = BTreeMap::new();
        for slot in slots {
            let fd = next()?;
            // As it would be if this process had been started with it: whether it is closed on exec is a
            // mechanism's to say.
            fcntl_setfd(&fd, FdFlags::empty()).map_err(|errno| {
                fault(format!("clearing close-on-exec of fd {}: {errno}", fd.as_raw_fd()))
            })?;
            named.insert(slot, fd);
        }
        let handed = plan.map(|plan| Handed { plan, slots: named });
        let makings = match (asks, handed) {
            (Asks::Keep(number), Some(handed)) => {
                kept.may_keep(number, handed.slots.values()).map_err(fault)?;
                Makings::ToKeep(number, handed)
            }
            (Asks::Kept(number), _) => Makings::Kept(kept.launch(number).map_err(fault)?),
            (_, Some(handed)) => Makings::Handed(handed),
            (_, None) => return Err(fault("it has too few fds".into())),
        };
        Ok(Request { control, makings, stdio, directory, trace, at_end })
    }
}
