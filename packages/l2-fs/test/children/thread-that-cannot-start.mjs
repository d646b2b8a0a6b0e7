// A thread for files where koffi is missing.
throw new Error("Cannot find module 'koffi'");
