"""What a job changes in its user's files since its images, written down so that it can be undone.

records   what is written down, and how it is read again
ranges    sets of bytes of a file; pure
cover     which bytes of one file must be saved before they are changed; pure
births    which file an inode number means
slots     how the job has left each file, in a file that is mapped
sums      what the job has left in each block that was saved
segment   the files in which all this is, since one moment
moments   which of these each image needs; pure
journal   all of them
watch     what the export tells before and after it changes something

Imported by the export, which tells it what is about to be changed, and by whoever goes back to an image (shim/submit).
It trusts no name and no number that a host has sent: it looks at what the export has found on the disk.
"""
