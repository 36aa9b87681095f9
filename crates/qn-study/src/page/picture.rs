use anyhow::Result;
use maud::{Markup, PreEscaped, html};

use crate::figure::{self, FigureName};
use crate::source::Source;

/// A figure for light and for dark surroundings.
pub(super) fn picture(name: FigureName, sources: &[Source], caption: &str) -> Result<Markup> {
    let [light, dark] = figure::both_themes(name, sources)?;
    Ok(html! {
        figure {
            div class="light" { (PreEscaped(light)) }
            div class="dark" { (PreEscaped(dark)) }
            figcaption { (caption) }
        }
    })
}
