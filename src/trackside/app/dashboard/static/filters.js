// Forms with filters: an address says what is filtered, and nothing of filters that are empty. Times are typed and shown as
// they are where the browser is, and the address says them so that the server, which knows only its own zone, reads the same.

/** The minutes that clocks here are ahead of UTC as this day begins; clocks may change later that day. */
function aheadAtMidnight(now = new Date()) {
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate());
  const ahead = -midnight.getTimezoneOffset();
  // In the last hour of the day on which clocks are put back it is the next day by the clocks of its beginning.
  return new Date(now.getTime() + ahead * 60_000).getUTCDate() === now.getDate() ? ahead : -now.getTimezoneOffset();
}

const ahead = aheadAtMidnight();
const two = (number) => String(number).padStart(2, "0");

/** This day, in an address. */
export const TODAY = ahead ? `today${ahead < 0 ? "-" : "+"}${two(Math.trunc(Math.abs(ahead) / 60))}:${two(Math.abs(ahead) % 60)}` : "today";

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

/** What a field says in an address. What nobody has touched stays what it was: where clocks are put back, one hour comes twice. */
function inAddress(typed, before) {
  if (typed === "today") return TODAY;
  const when = typed === inField(before) ? moment(before, "Z") : moment(typed);
  return when?.toISOString() ?? typed;
}

function inField(said) {
  if (said === "today" && said !== TODAY) return "today+00:00";
  if (said === TODAY) return "today";
  const when = moment(said, "Z");
  if (when === null) return said;
  const here = new Date(when.getTime() - when.getTimezoneOffset() * 60_000).toISOString();
  return here.slice(0, -1).replace(/(T00:00)?(:00)?\.000$/, "");
}

for (const form of document.querySelectorAll("form.filters")) {
  const times = [...form.querySelectorAll("[data-time]")];
  for (const input of times) input.value = inField(input.defaultValue);
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) {
      if (value.trim() === "") formData.delete(name);
      else {
        const time = times.find((input) => input.name === name);
        if (time) formData.set(name, inAddress(value.trim(), time.defaultValue));
      }
    }
  });
  form.addEventListener("change", (event) => {
    if (event.target.matches("input[type=checkbox], select")) form.requestSubmit();
  });
}
