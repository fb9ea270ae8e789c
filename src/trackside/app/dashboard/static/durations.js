// How long things take, in the words of the server.

/** A length of time, as `wording.duration` writes it. */
export function took(seconds) {
  if (seconds < 0.001) return "< 1 ms";
  if (seconds < 0.9995) return `${(seconds * 1_000).toFixed(0)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
  return soFar(Math.max(seconds, 60));
}

/** The same of what goes on, which nobody counts more exactly than by seconds. */
export function soFar(seconds) {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86_400), Math.floor(whole / 3_600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}
