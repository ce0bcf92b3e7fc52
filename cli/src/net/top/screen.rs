//! The live screen.
//!
//! Guarantees: the terminal is as it was before however this ends: by a key, a signal, an error or
//! a panic. Colours are left out where NO_COLOR is set. What has no room is left out, the column
//! that is sorted by last; where nothing has room, that is said.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Text;
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use tokio_util::sync::CancellationToken;

use super::columns::{Column, GAP, column_names, columns, reason_columns};
use super::view::{Line, View};
use super::{Args, By, Nodes, Shown};

/// Between two looks at keys.
const KEYS: Duration = Duration::from_millis(100);

/// Lines for reasons of drops, with their header.
const DROPS: u16 = 5;

/// A title, a header, a line.
const LEAST_HEIGHT: u16 = 3;

/// The terminal while the screen is shown on it.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        // It also sees to it that a panic restores the terminal before it is reported.
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                restore();
                Err(error).context("cannot draw on this terminal: use a pipe, as in `| cat`")
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// What fails is the terminal's end; nobody is there to be told.
fn restore() {
    drop(ratatui::try_restore());
}

/// Draws until somebody leaves.
pub(super) fn run(
    args: &Args,
    nodes: &mut Nodes<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // What is wrong from the beginning is said on the terminal as it is.
    let mut view = nodes.look()?;
    let mut state = State::new(args, nodes.title());
    let mut screen = Screen::open()?;
    let mut left = args.count.map(|count| count.saturating_add(1));
    let mut looked = Instant::now();
    loop {
        view.sort(state.sort);
        state.stay_inside(&view);
        screen.0.draw(|frame| draw(frame, &view, &state)).context("cannot draw")?;
        left = left.map(|left| left - 1);
        loop {
            let now = Instant::now();
            if stop.is_cancelled() || left == Some(0) {
                return Ok(());
            }
            let due = looked + args.interval;
            if now >= due {
                looked = now;
                view = nodes.look()?;
                break;
            }
            match react(&mut state, KEYS.min(due - now)).context("cannot read keys")? {
                Reaction::None => {}
                Reaction::Leave => return Ok(()),
                Reaction::Draw => {
                    view.sort(state.sort);
                    state.stay_inside(&view);
                    screen.0.draw(|frame| draw(frame, &view, &state)).context("cannot draw")?;
                }
            }
        }
    }
}

/// What the person at the keyboard chose.
#[derive(Debug)]
struct State {
    title: String,
    interval: Duration,
    sort: By,
    shown: Shown,
    /// Lines that are scrolled past.
    above: usize,
    in_colour: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Reaction {
    None,
    Draw,
    Leave,
}

/// Waits for a key or another event.
fn react(state: &mut State, time: Duration) -> io::Result<Reaction> {
    if !event::poll(time)? {
        return Ok(Reaction::None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => state.press(key),
        Event::Resize(..) => Reaction::Draw,
        _ => Reaction::None,
    })
}

impl State {
    fn new(args: &Args, title: String) -> Self {
        // https://no-color.org: set, and not empty.
        let in_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (interval, sort, shown) = (args.interval, args.sort, args.shown());
        Self { title, interval, sort, shown, above: 0, in_colour }
    }

    fn press(&mut self, key: KeyEvent) -> Reaction {
        const PAGE: usize = 10;
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Reaction::Leave;
            }
            KeyCode::Char('q') | KeyCode::Esc => return Reaction::Leave,
            KeyCode::Char('c') => self.sort = By::Connections,
            KeyCode::Char('p') => self.sort = By::Packets,
            KeyCode::Char('b') => self.sort = By::Bytes,
            KeyCode::Char('d') => self.sort = By::Drops,
            KeyCode::Tab => {
                self.above = 0;
                self.shown = match self.shown {
                    Shown::Both => Shown::Services,
                    Shown::Services => Shown::Pods,
                    Shown::Pods => Shown::Both,
                }
            }
            KeyCode::Up => self.above = self.above.saturating_sub(1),
            KeyCode::Down => self.above += 1,
            KeyCode::PageUp => self.above = self.above.saturating_sub(PAGE),
            KeyCode::PageDown => self.above += PAGE,
            KeyCode::Home => self.above = 0,
            _ => return Reaction::None,
        }
        Reaction::Draw
    }

    /// The last line stays on the screen.
    fn stay_inside(&mut self, view: &View) {
        let lists = [(self.shown.services(), &view.services), (self.shown.pods(), &view.pods)];
        let longest = lists.iter().filter(|(shown, _)| *shown).map(|(_, lines)| lines.len()).max();
        self.above = self.above.min(longest.unwrap_or(0).saturating_sub(1));
    }

    fn coloured(&self, style: Style, colour: Color) -> Style {
        if self.in_colour { style.fg(colour) } else { style }
    }
}

fn draw(frame: &mut Frame<'_>, view: &View, state: &State) {
    let area = frame.area();
    if columns(area.width.into(), false, state.sort).len() < 2 || area.height < LEAST_HEIGHT {
        frame.render_widget(Paragraph::new("terminal too small"), area);
        return;
    }
    let [title, body, drops] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(drops_height(view, state.shown, area.height)),
    ])
    .areas(area);
    frame.render_widget(title_line(view, state), title);
    let lists = [
        (state.shown.services(), "service", &view.services),
        (state.shown.pods(), "pod", &view.pods),
    ];
    let lists: Vec<_> = lists.into_iter().filter(|(shown, ..)| *shown).collect();
    let heights = split(body.height, &lists.iter().map(|list| list.2.len()).collect::<Vec<_>>());
    let areas = Layout::vertical(heights.into_iter().map(Constraint::Length)).split(body);
    for ((_, kind, lines), area) in lists.into_iter().zip(areas.iter()) {
        let with_node = lines.iter().any(|line| line.node.is_some());
        let columns = columns(area.width.into(), with_node, state.sort);
        frame.render_widget(table(kind, lines, &columns, state, *area), *area);
    }
    let of_reasons = State { above: 0, title: String::new(), sort: By::Drops, ..*state };
    let columns = reason_columns(drops.width.into());
    frame.render_widget(table("reason", &view.drops, &columns, &of_reasons, drops), drops);
}

fn title_line<'a>(view: &'a View, state: &'a State) -> Paragraph<'a> {
    if let Some(problem) = &view.problem {
        let style = state.coloured(Style::new().add_modifier(Modifier::BOLD), Color::Red);
        return Paragraph::new(problem.as_str()).style(style);
    }
    let (title, sort, seconds) = (&state.title, state.sort.name(), state.interval.as_secs_f64());
    let text = format!("{title}  by {sort}, every {seconds} s  (c p b d: sort, Tab, q: leave)");
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::BOLD))
}

/// None while nothing was dropped, or services or pods are shown alone; no more than a third of the
/// screen.
fn drops_height(view: &View, shown: Shown, height: u16) -> u16 {
    let wanted = match view.drops.len() {
        _ if !shown.reasons() => 0,
        0 => 0,
        count => u16::try_from(count + 1).unwrap_or(u16::MAX),
    };
    wanted.min(DROPS).min(height / 3)
}

/// Every list gets its share; what one does not need is for the other.
fn split(height: u16, lengths: &[usize]) -> Vec<u16> {
    let need = |length: &usize| u16::try_from(length + 1).unwrap_or(u16::MAX);
    match lengths {
        [first, second] => {
            let most = height.div_ceil(2).max(height.saturating_sub(need(second)));
            let first = need(first).min(most);
            vec![first, height - first]
        }
        _ => vec![height; lengths.len()],
    }
}

fn table<'a>(
    kind: &'a str,
    lines: &'a [Line],
    all: &[Column],
    state: &State,
    area: Rect,
) -> Table<'a> {
    let names = column_names(all, kind);
    let header = all.iter().zip(names).map(|(column, name)| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let is_order = *column == Column::Rate(state.sort);
        let style = if is_order { style.add_modifier(Modifier::UNDERLINED) } else { style };
        Cell::new(aligned(*column, name.to_uppercase()).style(state.coloured(style, Color::Cyan)))
    });
    let header = Row::new(header.collect::<Vec<_>>());
    let room = usize::from(area.height.saturating_sub(1));
    // A list that fits does not scroll.
    let above = state.above.min(lines.len().saturating_sub(room));
    let rows = lines.iter().skip(above).take(room).map(|line| {
        let cells = all.iter().map(|column| Cell::new(aligned(*column, column.cell(line))));
        let drops = line.per_second.is_some_and(|rates| rates.drops > 0.0);
        let style = if drops { state.coloured(Style::new(), Color::Red) } else { Style::new() };
        Row::new(cells.collect::<Vec<_>>()).style(style)
    });
    let gap = GAP as u16;
    let widths = all.iter().map(|column| match column {
        Column::Name => Constraint::Min(column.width() as u16),
        _ => Constraint::Length(column.width() as u16 - gap),
    });
    Table::new(rows.collect::<Vec<_>>(), widths.collect::<Vec<_>>())
        .header(header)
        .column_spacing(gap)
}

fn aligned<'a>(column: Column, text: String) -> Text<'a> {
    let alignment = if column.is_number() { Alignment::Right } else { Alignment::Left };
    Text::from(text).alignment(alignment)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    use bowline_agent::datapath::Amounts;
    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::tcgetattr;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::Rates;
    use super::*;

    fn state() -> State {
        State {
            title: "node1".to_owned(),
            interval: Duration::from_millis(500),
            sort: By::Bytes,
            shown: Shown::Both,
            above: 0,
            in_colour: false,
        }
    }

    fn view(services: usize, pods: usize) -> View {
        let line = |kind: &'static str| {
            move |number: usize| Line {
                name: format!("default/{kind}-{number}"),
                so_far: Some(Amounts { connections: 7, ..Amounts::default() }),
                per_second: Some(Rates { bytes: 12_345.0, ..Rates::default() }),
                ..Line::default()
            }
        };
        View {
            services: (0..services).map(line("service")).collect(),
            pods: (0..pods).map(line("pod")).collect(),
            drops: vec![line("reason")(0)],
            ..View::default()
        }
    }

    fn drawn(width: u16, height: u16, view: &View, state: &State) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view, state)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y: u16| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        };
        (0..height).map(row).collect()
    }

    #[test]
    fn services_pods_and_drops_share_the_screen() {
        let rows = drawn(80, 24, &view(3, 40), &state());
        assert!(rows[0].starts_with("node1  by bytes, every 0.5 s"), "{rows:#?}");
        assert!(rows[1].starts_with("SERVICE") && rows[1].contains("BYTES/S"), "{rows:#?}");
        assert!(rows[2].starts_with("default/service-0") && rows[2].contains("12.3k"), "{rows:#?}");
        assert!(rows[5].starts_with("POD"), "{rows:#?}");
        assert!(rows[22].starts_with("REASON") && !rows[22].contains("CONN"), "{rows:#?}");
        let services = State { shown: Shown::Services, ..state() };
        let rows = drawn(80, 24, &view(3, 40), &services);
        assert!(!rows.iter().any(|row| row.contains("reason")), "{rows:#?}");
        let mut scrolled = State { above: 1000, ..state() };
        scrolled.stay_inside(&view(3, 40));
        let rows = drawn(80, 24, &view(3, 40), &scrolled);
        assert!(rows[2].starts_with("default/service-0"), "what fits does not scroll: {rows:#?}");
        assert!(rows[21].starts_with("default/pod-39"), "{rows:#?}");
    }

    #[test]
    fn every_size_is_drawn() {
        for (width, height) in [(1, 1), (20, 24), (34, 3), (34, 24), (200, 4), (300, 100)] {
            for shown in [Shown::Both, Shown::Services, Shown::Pods] {
                let rows = drawn(width, height, &view(50, 50), &State { shown, ..state() });
                let small = width < 34;
                let first = if small { "t" } else { "node1" };
                assert!(rows[0].starts_with(first), "{rows:?}");
                assert!(small || rows[1].contains("BYTES/S"), "{rows:#?}");
            }
        }
    }

    #[test]
    fn lists_share_what_there_is() {
        assert_eq!(split(20, &[3, 40]), [4, 16]);
        assert_eq!(split(20, &[40, 3]), [16, 4]);
        assert_eq!(split(20, &[40, 40]), [10, 10]);
        assert_eq!(split(21, &[40, 40]), [11, 10]);
        assert_eq!(split(20, &[2, 2]), [3, 17]);
        assert_eq!(split(20, &[7]), [20]);
        assert_eq!(split(1, &[7, 7]), [1, 0]);
    }

    #[test]
    fn keys_sort_choose_and_leave() {
        let mut state = state();
        let mut press = |code, modifiers| state.press(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        assert_eq!(press(KeyCode::Char('d'), none), Reaction::Draw);
        assert_eq!(press(KeyCode::Tab, none), Reaction::Draw);
        assert_eq!(press(KeyCode::Char('x'), none), Reaction::None);
        assert_eq!(press(KeyCode::Char('q'), none), Reaction::Leave);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Reaction::Leave);
        assert_eq!((state.sort, state.shown), (By::Drops, Shown::Services));
    }

    /// Set for the process that panics.
    const PANICS: &str = "BOWLINE_TEST_PANICS";

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        if std::env::var_os(PANICS).is_some() {
            let _screen = Screen::open().unwrap();
            panic!("on purpose");
        }
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let (mut outside, inside) = (File::from(pair.master), File::from(pair.slave));
        let before = tcgetattr(&inside).unwrap();
        let streams = [0, 1, 2].map(|_| Stdio::from(inside.try_clone().unwrap()));
        let [stdin, stdout, stderr] = streams;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["a_panic_leaves_the_terminal_as_it_was", "--nocapture"]);
        command.env(PANICS, "1").env("RUST_BACKTRACE", "0").env("TERM", "xterm");
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().unwrap();
        drop(command);
        let reader = std::thread::spawn(move || {
            let (mut said, mut some) = (String::new(), [0; 4096]);
            while !said.contains("test result") {
                let count = outside.read(&mut some).unwrap();
                said.push_str(&String::from_utf8_lossy(&some[..count]));
            }
            // The terminal stays until its settings were looked at.
            (said, outside)
        });
        assert!(!child.wait().unwrap().success());
        let (said, _outside) = reader.join().unwrap();
        let after = tcgetattr(&inside).unwrap();
        assert_eq!(after.local_flags, before.local_flags);
        assert_eq!(after.output_flags, before.output_flags);
        let (enters, leaves) = (said.find("\x1b[?1049h"), said.find("\x1b[?1049l"));
        assert!(enters.is_some() && leaves > enters, "{said:?}");
        assert!(said.find("on purpose") > leaves, "said on a screen that went: {said:?}");
    }
}
