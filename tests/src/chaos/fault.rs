//! Faults happen to a [`Rig`] whose connections all go through tools.

use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

use super::plan::{Kind, Planned, Who};
use crate::process::{Process, Signal};
use crate::proxy::{End, Proxy};
use crate::rig::{DATABASE, Rig};
use crate::tmpfs::Tmpfs;

/// Bytes per second of a slow connection, in each direction.
const SLOW: u64 = 16 * 1024;

/// Seconds that a clock jumps.
const JUMP: i64 = 5 * 3600;

/// Size of the disk that the spool is on.
const DISK: &str = "256m";

/// What a torn write leaves.
const GARBAGE: [u8; 777] = [0x46; 777];

/// What faults are done with: a proxy before each server, and the spool's disk.
pub struct Tools {
    source: Proxy,
    standby: Proxy,
    clickhouse: Proxy,
    /// `None`: that takes root, or there is no spool on disk.
    disk: Option<Tmpfs>,
}

impl Tools {
    /// Leads the sidecar's connections through proxies, gives it a clock that can be set, and, when it is `spooled`, a small disk.
    /// To be called before it is launched.
    pub fn before(rig: &mut Rig, spooled: bool) -> Tools {
        rig.sidecar.fake_clock();
        let disk = if spooled { Tmpfs::mount(rig.sidecar.state(), DISK) } else { None };
        rig.configure(|config| {
            if spooled {
                config.sections = "[spool]\nconfirm = \"spooled\"\n".to_owned();
            }
        });
        let tools = Tools {
            source: Proxy::start(rig.source.port()),
            standby: Proxy::start(rig.standby.port()),
            clickhouse: Proxy::start(rig.clickhouse.http_port()),
            disk,
        };
        let source = rig.source.conninfo_through(tools.source.port(), DATABASE);
        let standby = rig.standby.conninfo_through(tools.standby.port(), DATABASE);
        let clickhouse = rig.clickhouse.url_through(tools.clickhouse.port(), DATABASE);
        rig.configure(|config| {
            config.source = source;
            config.postgres[0].connection = standby;
            config.clickhouse[0].connection = clickhouse;
        });
        tools
    }

    /// The one before a server.
    fn of(&self, who: Who) -> &Proxy {
        match who {
            Who::Sidecar => panic!("connections of the sidecar are those of a server"),
            Who::Source => &self.source,
            Who::Standby => &self.standby,
            Who::ClickHouse => &self.clickhouse,
        }
    }
}

/// Lets a fault happen, and be over.
pub fn happen(fault: &Planned, rig: &mut Rig, tools: &Tools) {
    match fault.kind {
        Kind::Kill => {
            kill(fault.who, rig);
            thread::sleep(fault.lasts);
            launch(fault.who, rig);
        }
        Kind::Freeze => {
            process(fault.who, rig).signal_family(Signal::STOP);
            thread::sleep(fault.lasts);
            process(fault.who, rig).signal_family(Signal::CONT);
        }
        Kind::Cut => tools.of(fault.who).cut(),
        Kind::HalfCloseSidecar => tools.of(fault.who).half_close(End::Client),
        Kind::HalfCloseServer => tools.of(fault.who).half_close(End::Server),
        Kind::Stall => {
            let proxy = tools.of(fault.who);
            proxy.stall(true);
            thread::sleep(fault.lasts);
            proxy.stall(false);
        }
        Kind::Refuse => {
            let proxy = tools.of(fault.who);
            proxy.refuse(true);
            proxy.cut();
            thread::sleep(fault.lasts);
            proxy.refuse(false);
        }
        Kind::Slow => {
            let proxy = tools.of(fault.who);
            proxy.slow(Some(SLOW));
            thread::sleep(fault.lasts);
            proxy.slow(None);
        }
        Kind::KillUnheard => {
            let deaf = if fault.who == Who::Source { End::Server } else { End::Client };
            let proxy = tools.of(fault.who);
            proxy.hold_back(deaf, true);
            thread::sleep(fault.lasts);
            rig.sidecar.kill();
            proxy.cut();
            proxy.hold_back(deaf, false);
            rig.sidecar.launch();
        }
        Kind::ClockJump => {
            rig.sidecar.set_clock(JUMP);
            thread::sleep(fault.lasts);
            rig.sidecar.set_clock(-JUMP);
            thread::sleep(fault.lasts);
            rig.sidecar.set_clock(0);
        }
        Kind::DiskFull => {
            let full = tools.disk.as_ref().map(Tmpfs::fill);
            thread::sleep(fault.lasts);
            drop(full);
        }
        Kind::TornTail => {
            rig.sidecar.kill();
            if let Some(last) = rig.sidecar.segments().last() {
                let mut file = OpenOptions::new().append(true).open(last).expect("a segment");
                file.write_all(&GARBAGE).expect("write garbage");
            }
            rig.sidecar.launch();
        }
        Kind::Spoil => {
            let proxy = tools.of(fault.who);
            proxy.spoil(true);
            thread::sleep(fault.lasts);
            proxy.spoil(false);
        }
    }
}

fn process(who: Who, rig: &Rig) -> &Process {
    match who {
        Who::Sidecar => rig.sidecar.process(),
        Who::Source => rig.source.process(),
        Who::Standby => rig.standby.process(),
        Who::ClickHouse => rig.clickhouse.process(),
    }
}

fn kill(who: Who, rig: &mut Rig) {
    match who {
        Who::Sidecar => rig.sidecar.kill(),
        Who::Source => rig.source.kill(),
        Who::Standby => rig.standby.kill(),
        Who::ClickHouse => rig.clickhouse.kill(),
    }
}

fn launch(who: Who, rig: &mut Rig) {
    match who {
        Who::Sidecar => rig.sidecar.launch(),
        Who::Source => rig.source.launch(),
        Who::Standby => rig.standby.launch(),
        Who::ClickHouse => rig.clickhouse.launch(),
    }
}
