// Forms with filters: an address says what is filtered, and nothing of filters that are empty. Times are typed and shown as
// they are where the browser is, and the address says them so that the server, which knows only its own zone, reads the same.

const two = (number) => String(number).padStart(2, "0");
const offset = (minutes) => `${minutes < 0 ? "-" : "+"}${two(Math.trunc(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;

/** This day, in an address: where the clock is, and where it was when the day began if it was put forward or back since. */
function thisDay() {
  const now = new Date();
  const [year, month, day] = [now.getFullYear(), now.getMonth(), now.getDate()];
  const ahead = -now.getTimezoneOffset();
  const begun = (Date.UTC(year, month, day) - new Date(year, month, day).getTime()) / 60_000; // also where there is no midnight
  if (begun !== ahead) return `today${offset(ahead)}${offset(begun)}`;
  return ahead ? `today${offset(ahead)}` : "today";
}

export const TODAY = thisDay();

const TIME = /^([1-9]\d{3})-?(\d\d)-?(\d\d)(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?(Z|[+-]\d\d:\d\d)?)?$/;

/** The moment that a date or time means, in a zone where it says none; null: it is none. */
function moment(said, zone = "") {
  const found = TIME.exec(said);
  if (!found) return null;
  const [, year, month, day, hour = "00", minute = "00", second = "00", fraction = "0", own = zone] = found;
  // Of a day that its month does not have browsers make one of the next month.
  if (Number(day) > new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate()) return null;
  const when = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}.${fraction.slice(0, 3)}${own}`);
  return Number.isNaN(when.getTime()) ? null : when;
}

/** What an address says of a field, or would say of what the page shows in it. */
const saidOf = (input) => input.dataset.time || input.defaultValue;

/** What a field says in an address. What nobody has touched stays what it was: where clocks are put back, one hour comes twice. */
function inAddress(typed, input) {
  if (typed === inField(input)) return saidOf(input);
  if (typed === "today") return TODAY;
  return moment(typed)?.toISOString() ?? typed;
}

/** What is shown in a field of what an address says. */
function inField(input) {
  const said = saidOf(input);
  if (said === "today" && said !== TODAY) return "today+00:00";
  if (said === TODAY) return "today";
  const when = moment(said, "Z");
  if (when === null) return said;
  const here = new Date(when.getTime() - when.getTimezoneOffset() * 60_000).toISOString();
  return input.type === "datetime-local" ? here.slice(0, 16) : here.slice(0, -1).replace(/(T00:00)?(:00)?\.000$/, "");
}

for (const form of document.querySelectorAll("form.filters")) {
  const times = [...form.querySelectorAll("[data-time]")];
  for (const input of times) input.value = inField(input);
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) {
      if (value.trim() === "") formData.delete(name);
      else {
        const time = times.find((input) => input.name === name);
        if (time) formData.set(name, inAddress(value.trim(), time));
      }
    }
  });
  form.addEventListener("change", (event) => {
    if (event.target.matches("input[type=checkbox], select")) form.requestSubmit();
  });
}
