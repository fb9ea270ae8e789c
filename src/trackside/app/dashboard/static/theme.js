// Before anything is drawn: light or dark, if somebody has chosen; else as the system has it.
{
    let chosen = null;
    try {
        chosen = localStorage.getItem("trackside-theme");
    } catch {
        // a browser that keeps nothing
    }
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
