-- A batch raises hundreds of these rows, and their dead versions stay until the replicas have told what they read (`hot_standby_feedback`,
-- every 10 s): with room for them on its page a row is updated there, without new entries of the index.
alter table app_count set (fillfactor = 20);
