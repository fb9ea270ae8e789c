"""The files of exports, and what exports have cut off."""
