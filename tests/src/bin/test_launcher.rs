//! A launcher as somebody else would make it: the built-in mechanisms and some of its own, which go
//! wrong in ways that the built-in ones don't.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portcullis_core::mechanism::{
    Attendee, Declaration, Demonstration, Fault, Host, Mechanism, OpenError, Opening, Phase,
    Repeat, Stop, Support,
};
use portcullis_core::program::Op;
use portcullis_core::{Lowering, Params};
use portcullis_mechanisms as _;

const fn declaration(id: &'static str) -> Declaration {
    Declaration {
        id,
        version: 1,
        phase: Phase::Privilege,
        rank: 0,
        rank_reason: "it is alone",
        repeat: Repeat::Once,
        requires: &[],
        conflicts: &[],
        summary: "goes wrong",
        kernel_floor: "any",
        params: "{}",
        example: "{}",
        guide: "",
        demonstration: Demonstration { policy: "{}", with: &[], script: "", shows: "" },
    }
}

macro_rules! mechanism {
    ($name:ident, $id:literal, $lower:expr, $attend:expr) => {
        struct $name;
        portcullis_core::register!($name);
        impl Mechanism for $name {
            fn declaration(&self) -> &'static Declaration {
                static DECLARATION: Declaration = declaration($id);
                &DECLARATION
            }
            fn open(&self, policy: &Params, _: &mut Opening) -> Result<Params, OpenError> {
                Ok(policy.clone())
            }
            fn lower(&self, _: &Params, launch: &mut Lowering<'_>) -> Result<(), Stop> {
                $lower(launch)
            }
            fn attend(&self, _: &Params, child: Attendee) -> Result<(), Fault> {
                $attend(child)
            }
            fn probe(&self, _: &dyn Host) -> Support {
                Support::yes("always")
            }
        }
    };
}

mechanism!(
    Thread,
    "test.thread.start.v1",
    |_: &mut Lowering<'_>| {
        thread::spawn(|| thread::sleep(Duration::from_secs(60)));
        Ok(())
    },
    |_| Ok(())
);

mechanism!(
    Attend,
    "test.attend.fail.v1",
    |launch: &mut Lowering<'_>| {
        launch.rendezvous();
        Ok(())
    },
    |_| Err(Fault { what: "attending failed".into(), note: Some("attend=failed fail_closed") })
);

mechanism!(
    AttendLate,
    "test.attend.late.v1",
    |launch: &mut Lowering<'_>| {
        launch.rendezvous();
        Ok(())
    },
    |_| Ok(())
);

mechanism!(
    AttendOnce,
    "test.attend.once.v1",
    |launch: &mut Lowering<'_>| {
        launch.rendezvous_ahead();
        Ok(())
    },
    |_| {
        static ATTENDED: AtomicBool = AtomicBool::new(false);
        if ATTENDED.swap(true, Ordering::Relaxed) {
            return Err(Fault { what: "attended before".into(), note: None });
        }
        Ok(())
    }
);

mechanism!(
    AtEnd,
    "test.end.mark.v1",
    |launch: &mut Lowering<'_>| {
        let file = std::env::var_os("TEST_LAUNCHER_END").unwrap_or_default();
        launch.needs_child("it leaves a mark at the end");
        launch.at_end(move || std::fs::write(&file, "ended").map_err(|error| error.to_string()));
        Ok(())
    },
    |_| Ok(())
);

mechanism!(
    Wait,
    "test.child.wait.v1",
    |launch: &mut Lowering<'_>| {
        // Until its standard input has a byte.
        launch.push(Op::read_exactly(0, 1));
        Ok(())
    },
    |_| Ok(())
);

fn main() -> std::process::ExitCode {
    if std::env::var_os("TEST_LAUNCHER_THREAD").is_some() {
        thread::spawn(|| thread::sleep(Duration::from_secs(60)));
    }
    portcullis_launcher::main()
}
